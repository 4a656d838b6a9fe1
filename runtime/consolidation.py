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

from edgemem.block import Arrays, BlockSpec

# Mean entropy may grow by so much, relative to that of a guess; agreement may fall by as much.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Outlook:
    """How a block does on the frames of a probe, without labels.

    entropy: mean, as a share of the entropy of a guess. agreement: mean probability that the block
    gives to the frozen model's label.
    """

    entropy: float
    agreement: float

    def no_worse_than(self, other: Outlook) -> bool:
        """Whether nothing speaks against taking this for the other."""
        return (
            self.entropy <= other.entropy + TOLERANCE
            and self.agreement >= other.agreement - TOLERANCE
        )


Probe = Callable[[Arrays], Outlook]


def outlook(logits: np.ndarray, frozen_labels: np.ndarray) -> Outlook:
    """Outlook of logits [n, classes] beside the frozen model's labels [n]; NaN is worst."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    entropy = float(-(p * log_p).sum(1).mean() / np.log(max(2, logits.shape[1])))
    agreement = float(p[np.arange(len(p)), frozen_labels].mean())
    if not np.isfinite(entropy + agreement):
        return Outlook(np.inf, 0.0)
    return Outlook(entropy, agreement)


def shared_part(spec: BlockSpec, learnt: Arrays) -> Arrays:
    """The part of a change of a block that the root takes; only arrays that it takes of."""
    return {
        array.name: np.asarray(np.asarray(array.root_share, array.dtype) * learnt[array.name])
        for array in spec.arrays
        if array.root_share
    }


def moved(arrays: Arrays, change: Arrays, sign: int = 1) -> Arrays:
    """Arrays after a change of some of them, or after taking it back (sign = -1)."""
    # Scalars stay arrays, as engines want them.
    return arrays | {
        name: np.asarray(arrays[name] + np.asarray(sign, value.dtype) * value)
        for name, value in change.items()
    }
