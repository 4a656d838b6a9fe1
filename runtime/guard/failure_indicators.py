"""Signs of a block gone astray, or of frames that spoil it.

Pure functions, without labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgemem.block import Array, Block, BlockSpec
from edgemem.bundle.rows import frames_of
from edgemem.runtime.logits import Logits
from edgemem.runtime.step.graphs import Frames

LEAST = 8  # frames on which the references must have agreed for a verdict
MEMORY = 256.0  # such frames over which dissent averages
# Sound blocks contradict both references on some hundredths of these frames; from a tenth on, steps
# did harm in all trials but one (networks that are right on 40 to 90 %).
DISSENT = 0.1
DEVIATIONS = 3.0  # of chance
ONE_CLASS = 0.9  # part of the predictions
FARTHEST = 1.1  # see `farthest`; the zero block, which may be asked for, is at one


@dataclass(frozen=True)
class Evidence:
    """From checks of a block beside two references, in a decaying sum.

    Attributes:
        agreed: frames on which the references agree.
        against: those of them on which the block contradicts both.
    """

    agreed: float = 0.0
    against: float = 0.0

    def after(self, own: Logits, reference: Logits, frozen: Logits) -> Evidence:
        """With one more check, from logits [n, classes] for the same frames."""
        trusted = frozen.argmax(1)
        both = (trusted == reference.argmax(1)) & np.isfinite(reference).all(1)
        agreed = self.agreed + float(both.sum())
        against = self.against + float((own.argmax(1) != trusted)[both].sum())
        kept = min(1.0, MEMORY / max(agreed, 1.0))
        # As a snapshot holds them, so that a runtime that is opened again decides alike.
        return Evidence(float(np.float32(kept * agreed)), float(np.float32(kept * against)))

    @property
    def share(self) -> float:
        """Of the frames on which the block contradicts the references."""
        return self.against / max(self.agreed, 1.0)

    def is_enough(self) -> bool:
        """Whether this speaks against the block: by more than chance makes of a sound one."""
        if self.agreed < LEAST:
            return False
        chance = math.sqrt(DISSENT * (1.0 - DISSENT) / self.agreed)
        return self.share > DISSENT + DEVIATIONS * chance


def names_one_class(logits: Logits) -> bool:
    """Whether nearly all frames of several get the same label."""
    labels = logits.argmax(1)
    return len(labels) > 1 and bool(np.bincount(labels).max() >= ONE_CLASS * len(labels))


def farthest(spec: BlockSpec, source: Block, block: Block) -> float:
    """How far the array that went farthest is from the source.

    Only arrays that learn count, not statistics. A kernel's distance is in lengths of the source's;
    the root mean square of a scale's or shift's is taken as it is, for one is their natural unit.
    """
    names = [array.name for array in spec.arrays if array.learns]
    return max((_moved(source[name], block[name]) for name in names), default=0.0)


def _moved(source: Array, array: Array) -> float:
    if source is array:
        return 0.0
    length = float(np.linalg.norm(source)) if array.ndim > 1 else 0.0
    change = np.subtract(array, source, dtype=np.float64)
    return float(np.linalg.norm(change)) / (length or np.sqrt(array.size))


def is_still(window: Frames) -> bool:
    """Whether all frames of a batch are the same: a covered lens, a stuck sensor."""
    frames = frames_of(window)
    return len(frames) > 1 and bool((frames[1:] == frames[0]).all())
