"""Visits of contexts in a recorded stream: was each recognised, and was the model good at once?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Wrong = NDArray[np.bool_]


@dataclass(frozen=True)
class Visit:
    """One stay in a context of the stream.

    Attributes:
        number: 1 for the first visit to this context.
        first_error: of its first frames alone, two steps of them.
        recognised: part of its frames that got a name which an earlier visit got; None at the
            first, or where contexts are not told apart. Errors are fractions, None without labels.
    """

    context: str
    number: int
    start: int
    frames: int
    error: float | None
    first_error: float | None
    frozen_error: float | None
    recognised: float | None


@dataclass(frozen=True)
class Returns:
    """First visits beside returns: mean errors of their first frames, and what was recognised."""

    visits: int
    first_visit: float | None
    on_return: float | None
    recognised: float | None


def visits_of(
    contexts: NDArray[np.str_],
    used: NDArray[np.str_] | None,
    wrong: Wrong | None,
    frozen_wrong: Wrong | None,
    first: int,
) -> list[Visit]:
    """The visits of a stream, in order.

    Args:
        contexts: [n], the true name of every frame's context.
        used: [n], the name that the runtime gave it, or None.
        wrong: [n], whether the answer was, or None.
        frozen_wrong: [n], the same of the frozen model.
        first: how many frames are the first.
    """
    known: dict[str, set[str]] = {}
    found: list[Visit] = []
    for start, stop in _spans(contexts):
        name, seen = str(contexts[start]), slice(start, stop)
        before = known.setdefault(name, set())
        number = 1 + sum(visit.context == name for visit in found)
        recognised = None
        if used is not None and number > 1:
            recognised = float(np.isin(used[seen], list(before)).mean())
        if used is not None:
            before.update(used[seen].tolist())
        early = slice(start, min(start + first, stop))
        found.append(
            Visit(
                name, number, start, stop - start,
                _mean(wrong, seen), _mean(wrong, early), _mean(frozen_wrong, seen), recognised,
            )
        )  # fmt: skip
    return found


def returns_of(visits: list[Visit]) -> Returns:
    """Means over visits of equal weight."""
    first = [visit for visit in visits if visit.number == 1]
    later = [visit for visit in visits if visit.number > 1]
    return Returns(
        len(later),
        _average(visit.first_error for visit in first),
        _average(visit.first_error for visit in later),
        _average(visit.recognised for visit in later),
    )


def _spans(contexts: NDArray[np.str_]) -> Iterator[tuple[int, int]]:
    changes = np.flatnonzero(contexts[1:] != contexts[:-1]) + 1
    return pairwise([0, *changes.tolist(), len(contexts)])


def _mean(wrong: Wrong | None, seen: slice) -> float | None:
    return None if wrong is None else float(wrong[seen].mean())


def _average(values: Iterator[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
