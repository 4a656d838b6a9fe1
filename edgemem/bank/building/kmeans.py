"""Mini-batch k-means of one node: k-means++ start, steps on fresh samples, balanced clusters.

Source: Pouransari et al., arXiv 2510.02375 (steps and balancing); Arthur and Vassilvitskii 2007
(k-means++).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.read.tree import squared_distances

Keys = NDArray[np.float32]
Points = NDArray[np.float64]
Labels = NDArray[np.intp]
TIE = 1e-12
# The paper's 0.094 for 16 children: one and a half times an even share.
LARGEST_SHARE = 1.5


@dataclass(frozen=True)
class KMeansSettings:
    """How the clusters of a node are found; the paper's figures. step_keys: samples of a step."""

    steps: int = 20
    step_keys: int = 6400


def cluster(
    samples: Iterator[Keys], branch: int, recipe: KMeansSettings, random: np.random.Generator
) -> Keys:
    """Centroids [at most branch, d]; fewer when the samples hold fewer different keys.

    samples: arrays [n, d] of fresh keys of the node, without end.
    """
    # Nearer to zero, sums of squares lose less.
    first = next(samples)
    origin = first.mean(axis=0, dtype=np.float64)
    centroids = _start(first - origin, branch, random)
    weights = np.zeros(len(centroids))
    for step in range(recipe.steps):
        points = next(samples) - origin
        labels = nearest(points, centroids)
        if step < recipe.steps // 2:
            weights[:] = 0  # move freely first; then average over steps, which removes noise
        _move(centroids, weights, points, labels)
        # Without a later step, a split would leave its halves as they fall.
        if step + 1 < recipe.steps:
            _balance(centroids, weights, points, labels, LARGEST_SHARE / branch)
    found: Keys = (centroids + origin).astype(np.float32)
    return np.unique(found, axis=0)


def nearest(points: Points | Keys, centroids: Points | Keys) -> Labels:
    """Row of the nearest centroid of each point, exactly as a descent would choose it."""
    points, centroids = np.asarray(points, np.float64), np.asarray(centroids, np.float64)
    squares = np.einsum("kd,kd->k", centroids, centroids)
    away = squares - 2 * (points @ centroids.T)
    labels: Labels = away.argmin(axis=1)
    if len(centroids) == 1:
        return labels
    # A product of matrices rounds otherwise than a difference: decide near ties by differences.
    best, second = np.partition(away, 1, axis=1)[:, :2].T
    scale = np.einsum("nd,nd->n", points, points) + squares.max()
    for row in np.flatnonzero(second - best <= TIE * scale):
        labels[row] = squared_distances(centroids, points[row]).argmin()
    return labels


def _start(points: Points, branch: int, random: np.random.Generator) -> Points:
    """k-means++ with the best of several candidates for each centroid."""
    squares = np.einsum("nd,nd->n", points, points)
    rounding = TIE * squares.max()

    def away_from(rows: Labels) -> Points:
        """Squared distances [candidates, n]; zero for points that are equal."""
        found: Points = squares[rows, None] - 2 * (points[rows] @ points.T) + squares
        found[found <= rounding] = 0
        return found

    chosen = [int(random.integers(len(points)))]
    away = away_from(np.array(chosen))[0]
    candidates = 2 + int(np.log(branch))
    while len(chosen) < branch and away.any():
        picked = random.choice(len(points), candidates, p=away / away.sum())
        trials = np.minimum(away, away_from(picked))
        best = int(trials.sum(axis=1).argmin())
        chosen.append(int(picked[best]))
        away = trials[best]
    return points[chosen].copy()


def _move(centroids: Points, weights: NDArray[np.float64], points: Points, labels: Labels) -> None:
    """Move each centroid to the mean of its points, earlier steps counting by their weight."""
    counts = np.bincount(labels, minlength=len(centroids))
    for label in np.flatnonzero(counts):
        total = points[labels == label].sum(axis=0) + centroids[label] * weights[label]
        centroids[label] = total / (weights[label] + counts[label])
    weights += counts


def _balance(
    centroids: Points,
    weights: NDArray[np.float64],
    points: Points,
    labels: Labels,
    share: float,
) -> None:
    """Give half of every too large cluster to the smallest one.

    The halves are cut across the coordinate along which the cluster spreads most. A cluster of
    equal points cannot be cut.
    """
    counts = np.bincount(labels, minlength=len(centroids))
    for large in np.argsort(-counts, kind="stable"):
        small = int(counts.argmin())
        if counts[large] <= share * len(points) or small == large:
            break
        members = points[labels == large]
        axis = int(members.var(axis=0).argmax())
        order = np.argsort(members[:, axis], kind="stable")
        halves = np.array_split(members[order], 2)
        means = [half.mean(axis=0) for half in halves]
        if np.array_equal(*means):
            continue
        centroids[large], centroids[small] = means
        weights[large], weights[small] = len(halves[0]), len(halves[1])
        counts[large], counts[small] = len(halves[0]), len(halves[1])
