"""Consolidation: what a context learnt goes to the root that all share, if a probe does not object.

The leaf gives up what the root takes, so the context itself keeps its block to the bit of rounding;
every other context moves. The probe therefore asks one of these: the next that arrives, by frames
that nothing has been learnt from. Fast and slow weights as in Ba et al. 2016 and FSCL
(arXiv 2104.09034), where the slow ones move only if a probe passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Block, BlockSpec
from edgemem.runtime.logits import Logits, entropies


@dataclass(frozen=True)
class Outlook:
    """How a block does on the frames of a probe, without labels.

    Attributes:
        entropy: mean, as a share of the entropy of a guess.
        agreement: share of frames with the frozen model's label.
    """

    entropy: float
    agreement: float

    def no_worse_than(self, other: Outlook) -> bool:
        """Whether nothing speaks against taking this for the other.

        Without any tolerance: one change of the root does little, but they add up.
        """
        return self.entropy <= other.entropy and self.agreement >= other.agreement


Probe = Callable[[Block], Outlook]


def outlook(logits: Logits, frozen_labels: NDArray[np.int64]) -> Outlook:
    """Outlook of logits [n, classes] beside the frozen model's labels [n]; NaN is worst."""
    entropy = float(entropies(logits).mean() / np.log(max(2, logits.shape[1])))
    agreement = float((logits.argmax(1) == frozen_labels).mean())
    if not np.isfinite(entropy + agreement):
        return Outlook(np.inf, 0.0)
    return Outlook(entropy, agreement)


def shared_part(spec: BlockSpec, learnt: Block, contexts: int) -> Block:
    """The part of a change of a block that the root takes; only arrays that it takes of.

    Of so many contexts each gives as small a part, so that the root follows the mean of what they
    learn. Had it the sum, it would be trained as often as all of them together.
    """
    return Block(
        {
            array.name: np.asarray(
                np.asarray(array.root_share / contexts, array.dtype) * learnt[array.name]
            )
            for array in spec.arrays
            if array.root_share
        }
    )
