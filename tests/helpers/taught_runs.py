"""Runs of the tiny bundle that can be taught classes, and what they know."""

import numpy as np
from opening import opened_with
from teachable import BATCH

from edgemem.testing import session_of

CAT, DOG, COW = 2, 3, 4
SUMS = "prototypes.sums"


def opened(bundle, state=None, **options):
    return opened_with(bundle, state, threads=1, **options)


def step_all(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def table(runtime):
    return {info.index: (info.name, info.frames) for info in runtime.classes()}


def everything(runtime):
    """All that learning could change, in memory."""
    session = session_of(runtime)
    kept = session.contexts.kept
    blocks = [session.block, session.good, session.slots, kept.root, *kept.leaves.values()]
    arrays = [np.asarray(array) for block in blocks for array in block.values()]
    return b"".join(array.tobytes() for array in arrays), runtime.classes()


def right(results, y):
    """The part of frames whose label is right."""
    return float((np.concatenate([result.labels for result in results]) == y).mean())
