"""The tree of contexts: greedy descent from key to leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.float32]
# Level (0 = the first) and row of the level above -> keys [branch, d]; None: no children there.
Children = Callable[[int, int], Keys | None]


@dataclass(frozen=True)
class Descent:
    """The way from the root to a leaf. path: row of each level, level 1 first.

    Attributes:
        distances: squared L2 distance from the key to the centroid chosen at each level.
    """

    path: tuple[int, ...]
    distances: tuple[float, ...]


def descend(children: Children, levels: int, key: Keys) -> Descent:
    """Take the nearest child at every level, the lowest row of equally near ones.

    Absent children have infinite keys, damaged ones NaN; neither is ever chosen. The path ends
    early where a node has no child.
    """
    path: list[int] = []
    distances: list[float] = []
    row, wide = 0, key.astype(np.float64)
    for level in range(levels):
        keys = children(level, row)
        if keys is None:
            break
        away = _squares(keys, wide)
        nearest = int(away.argmin())
        distance = float(away[nearest])
        if math.isnan(distance):  # if there is any NaN, argmin finds it
            away = _without_nan(away)
            nearest = int(away.argmin())
            distance = float(away[nearest])
        if distance == math.inf:
            break
        row = row * len(keys) + nearest
        path.append(row)
        distances.append(distance)
    return Descent(tuple(path), tuple(distances))


def squared_distances(keys: NDArray[Any], key: NDArray[Any]) -> NDArray[np.float64]:
    """Squared L2 distance of each row of keys [n, d] to a key [d]; infinite for NaN.

    In float64: squares of float32 numbers cannot overflow, and no difference is lost.
    """
    return _without_nan(_squares(keys, key))


def _squares(keys: NDArray[Any], key: NDArray[Any]) -> NDArray[np.float64]:
    away = keys.astype(np.float64)
    away -= key
    found: NDArray[np.float64] = np.einsum("nd,nd->n", away, away)
    return found


def _without_nan(away: NDArray[np.float64]) -> NDArray[np.float64]:
    away[np.isnan(away)] = np.inf
    return away
