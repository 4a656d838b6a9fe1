"""Learning from labelled frames: which go together, and what they make of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemem.block import Array, Block, is_finite
from edgemem.errors import InputError
from edgemem.runtime.classes.class_table import ClassTable
from edgemem.runtime.logits import Logits
from edgemem.runtime.step.graphs import Frames, Graphs
from edgemem.runtime.step.ring import Ring

# One of so many frames that are learnt from together has a label. The others are companions:
# frames of few classes alone would spoil statistics that are taken from them.
LABELLED = 4
Clear = Callable[[Block], Block]


@dataclass(frozen=True, eq=False)
class Lesson:
    """Labelled frames [n, ...], the class of each, and the table once they are learnt."""

    frames: Frames
    numbers: list[int]
    table: ClassTable


def teach(
    lesson: Lesson, graphs: Graphs, block: Block, parameters: Mapping[str, float], ring: Ring
) -> tuple[Block, Logits]:
    """The block after a lesson, and the logits of its frames; nothing changes.

    Frames are learnt in small groups, one after another; the logits of a group are from before it
    was learnt.

    Raises:
        InputError: nothing finite comes of it.
    """
    logits = dict[int, Logits]()
    for group in groups(lesson.numbers, max(1, ring.size // LABELLED)):
        # Where nothing was met yet they have no companions: the lesson's others are of few classes.
        companions = ring.last(min(ring.size - len(group), ring.count))
        window = np.concatenate([companions, lesson.frames[group]])
        labels = np.full(len(window), -1, np.int64)
        labels[-len(group) :] = [lesson.numbers[place] for place in group]
        outputs = graphs.learn(window, labels, block, parameters)
        found, block = outputs["logits"][: len(window)], Block.named("next.block", outputs)
        sound = is_finite({"": found, "loss": outputs["stat.loss"]}) and block.is_sound()
        if not sound or not outputs["stat.updated"]:
            raise InputError(
                "frames",
                "give nothing finite to learn from",
                "Leave out what is far from the model's range, or go back: runtime.rollback()",
            )
        logits |= dict(zip(group, found[-len(group) :], strict=True))
    return block, np.stack([logits[place] for place in range(len(lesson.numbers))])


def groups(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of labelled frames in groups of at most `size`, classes in turn."""
    rank, seen = list[tuple[int, int]](), dict[int, int]()
    for place, number in enumerate(numbers):
        seen[number] = seen.get(number, 0) + 1
        rank.append((seen[number], place))
    order = [place for _, place in sorted(rank)]
    for first in range(0, len(order), size):
        yield order[first : first + size]


def clearing(names: Sequence[str], number: int) -> Clear:
    """What clears the row of a class in arrays of these names.

    The same block comes back where it is clear already.
    """

    def clear(block: Block) -> Block:
        changed: dict[str, Array] = {}
        for name in names:
            array = block.get(name)
            if array is not None and array.ndim and len(array) > number and array[number].any():
                changed[name] = array.copy()
                changed[name][number] = 0
        return block.replace(changed)

    return clear
