"""Decisions, as pure functions from what a step returned to what becomes of it."""

from __future__ import annotations

from enum import Enum

import numpy as np

from edgemem.block import Arrays, Block
from edgemem.bundle.manifest import is_answer


class Verdict(Enum):
    """What becomes of a step."""

    KEEP = "keep"  # take the next block
    UNRELIABLE = "unreliable"  # the graph itself declined to update
    SKIP = "skip"  # the present block is good, the next is not
    RESTORE = "restore"  # the present block is not good either


def judge(outputs: Arrays) -> Verdict:
    """Judge the outputs of an `adapt` graph.

    The answers come from the present block; the loss, too. A block that gives non-finite values on
    finite frames must go, even if its own values are finite.
    """
    answers = [array for name, array in outputs.items() if is_answer(name)]
    sound = all(np.isfinite(array).all() for array in (*answers, outputs["stat.loss"]))
    if not sound:
        return Verdict.RESTORE
    following = Block.named("next", outputs)
    if not following.is_finite() or not Block.named("block", following).is_sound():
        return Verdict.SKIP
    if not outputs["stat.updated"]:
        return Verdict.UNRELIABLE
    return Verdict.KEEP
