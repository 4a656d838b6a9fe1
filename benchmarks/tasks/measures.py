"""What is wrong in answers, as shares from 0 to 1."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

Floats = NDArray[np.float32]
BLANK = 0


def overlap_missed(maps: Floats, right: NDArray[np.int64]) -> float:
    """One less the mean over classes of intersection over union; maps [n, classes, h, w]."""
    found, classes = maps.argmax(1).ravel(), list(range(maps.shape[1]))
    return 1 - float(jaccard_score(right.ravel(), found, labels=classes, average="macro"))


def precision_missed(logits: Floats, right: NDArray[np.bool_]) -> float:
    """One less the mean over labels of average precision; both [n, labels]."""
    return 1 - float(average_precision_score(right, logits, average="macro"))


def distance(places: Floats, right: Floats) -> float:
    """Mean distance of places [n, 2], in sides of a picture."""
    return float(np.linalg.norm(places - right, axis=1).mean())


def digits_wrong(steps: Floats, right: NDArray[np.int64]) -> float:
    """Share of lines that are not read rightly, by greedy decoding of [n, t, 11] (CTC)."""
    lines = [[k - 1 for k, _ in groupby(row) if k != BLANK] for row in steps.argmax(2).tolist()]
    return float(np.mean([line != list(digits) for line, digits in zip(lines, right, strict=True)]))


def unranked(made: Floats, right: tuple[Floats, NDArray[np.bool_]]) -> float:
    """Pairs of a good and a scratched frame that the error of reconstruction does not tell apart
    (one less the area under the curve). right: the frames from 0 to 1, and which are scratched."""
    frames, scratched = right
    errors = np.square(made - frames).mean((1, 2, 3))
    return 1 - float(roc_auc_score(scratched, errors))


def class_wrong(logits: Floats, right: NDArray[np.int64]) -> float:
    """Share of frames whose best class is another one."""
    return float((logits.argmax(1) != right).mean())


Right = Any  # what the measure of a study takes
