"""What is wrong in answers, as shares from 0 to 1: of characters, of boxes, of directions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.ocr.rendering import Box

Floats = NDArray[np.float32]
THRESHOLD, LEAST_PIXELS = 0.3, 10  # of a detector's map; smaller spots are no text
UNCLIP = 1.6  # how far a detector's boxes are enlarged: it is trained on shrunken ones
OVERLAP = 0.5  # of two boxes that are the same
BLANK = 0


def characters(path: Path) -> list[str]:
    """What the steps of a recogniser stand for, by the dictionary in its file."""
    import onnxruntime

    meta = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return ["", *meta["character"].splitlines(), " "]


def read(steps: Floats, known: Sequence[str]) -> list[str]:
    """The best text [n] by greedy decoding of probabilities [n, t, characters] (CTC)."""
    best = steps.argmax(2)
    return ["".join(known[k] for k, _ in groupby(row) if k != BLANK) for row in best.tolist()]


def text_error(read: Sequence[str], right: Sequence[str]) -> float:
    """Edits that are needed, as a share of the right characters."""
    edits = sum(distance(*pair) for pair in zip(read, right, strict=True))
    return edits / sum(map(len, right))


def distance(one: str, other: str) -> int:
    """Characters to insert, remove or replace (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def found_boxes(map_: Floats) -> list[Box]:
    """Boxes around the spots of a detector's map [h, w], enlarged as its authors do."""
    spots, _ = ndimage.label(map_ > THRESHOLD)
    boxes = []
    for number, place in enumerate(ndimage.find_objects(spots), start=1):
        if (spots[place] == number).sum() < LEAST_PIXELS:
            continue
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        more = UNCLIP * height * width / (2 * (height + width))
        boxes.append(
            Box(columns.start - more, rows.start - more, columns.stop + more, rows.stop + more)
        )
    return boxes


def box_error(maps: Floats, right: Sequence[Sequence[Box]]) -> float:
    """One minus the F-measure of boxes found in maps [n, 1, h, w]."""
    hits = count = 0
    for map_, known in zip(maps[:, 0], right, strict=True):
        found = found_boxes(map_)
        count += len(found) + len(known)
        left = list(found)
        for box in known:
            best = max(left, key=lambda other: overlap(box, other), default=None)
            if best is not None and overlap(box, best) >= OVERLAP:
                left.remove(best)
                hits += 1
    return 1 - 2 * hits / count


def overlap(one: Box, other: Box) -> float:
    """Shared area as a part of all area."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (_area(one) + _area(other) - shared)


def class_error(answers: Floats, right: NDArray[np.int64]) -> float:
    """Share of wrong classes, by answers [n, classes]."""
    return float((answers.argmax(1) != right).mean())


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)
