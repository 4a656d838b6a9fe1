"""Pictures made here: handwritten digits on coloured ground, and what is right for each task.

The digits are those of scikit-learn, 8 x 8 (Alpaydin & Kaynak, 1998). Networks train on the first
1,200 of them; what they are judged by is drawn from the others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits

Frames = NDArray[np.uint8]
Labels = NDArray[np.int64]
TRAINING_DIGITS = 1200
TRAINING_SEEDS = 1000  # seeds from here on draw training digits
SIDE, DIGIT = 48, 16  # pixels of a scene, and of the digits in it
LINE = (16, 80)  # pixels of a line
IN_LINE = 5
INK = 0.35  # a pixel with more of it belongs to the digit


@dataclass(frozen=True)
class Scenes:
    """Pictures and what they show.

    Attributes:
        frames: uint8 [n, 3, 48, 48].
        maps: [n, 48, 48]; 0 = ground, 1 to 10 = a digit, its number plus one.
        present: bool [n, 10], which digits there are.
        places: float32 [n, 2], the middle (row, column) of the last digit, from 0 to 1.
    """

    frames: Frames
    maps: Labels
    present: NDArray[np.bool_]
    places: NDArray[np.float32]


@functools.cache
def _digits() -> tuple[NDArray[np.float64], Labels]:
    """Ink [1797, 16, 16] from 0 to 1, and what was written."""
    held = load_digits()
    ink = ndimage.zoom(held.images / 16, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    return ink, held.target.astype(np.int64)


def _drawn(rng: Generator, seed: int) -> tuple[NDArray[np.float64], int]:
    ink, labels = _digits()
    known = seed >= TRAINING_SEEDS
    first, end = (0, TRAINING_DIGITS) if known else (TRAINING_DIGITS, len(ink))
    chosen = int(rng.integers(first, end))
    return ink[chosen], int(labels[chosen])


def _ground(rng: Generator, height: int, width: int) -> NDArray[np.float64]:
    """Soft spots of two colours [3, h, w]."""
    spots = ndimage.gaussian_filter(rng.normal(size=(height, width)), 3, mode="wrap")
    share = 1 / (1 + np.exp(-spots * 12))
    one, other = rng.uniform(0.0, 0.55, (2, 3, 1, 1))
    ground: NDArray[np.float64] = one * share + other * (1 - share)
    return ground


def _paint(
    picture: NDArray[np.float64], ink: NDArray[np.float64], rng: Generator, row: int, column: int
) -> None:
    colour = rng.uniform(0.65, 1.0, (3, 1, 1))
    height, width = ink.shape
    place = picture[:, row : row + height, column : column + width]
    place += (colour - place) * ink


def scenes(count: int, seed: int, most: int = 3) -> Scenes:
    """So many pictures with one to `most` digits each."""
    rng = np.random.default_rng(seed)
    frames = np.empty((count, 3, SIDE, SIDE), np.uint8)
    maps = np.zeros((count, SIDE, SIDE), np.int64)
    present, places = np.zeros((count, 10), np.bool_), np.zeros((count, 2), np.float32)
    for k in range(count):
        picture = _ground(rng, SIDE, SIDE)
        for _ in range(rng.integers(1, most + 1)):
            ink, label = _drawn(rng, seed)
            row, column = (int(v) for v in rng.integers(0, SIDE - DIGIT + 1, 2))
            _paint(picture, ink, rng, row, column)
            under = maps[k, row : row + DIGIT, column : column + DIGIT]
            under[ink > INK] = label + 1
            places[k] = (row + DIGIT / 2) / SIDE, (column + DIGIT / 2) / SIDE
        present[k] = np.isin(np.arange(10), np.unique(maps[k]) - 1)
        frames[k] = np.rint(picture * 255)
    return Scenes(frames, maps, present, places)


def lines(count: int, seed: int) -> tuple[Frames, Labels]:
    """Lines of five digits [n, 3, 16, 80], and these digits [n, 5]."""
    rng = np.random.default_rng(seed)
    frames, labels = np.empty((count, 3, *LINE), np.uint8), np.empty((count, IN_LINE), np.int64)
    for k in range(count):
        picture = _ground(rng, *LINE)
        for place in range(IN_LINE):
            ink, labels[k, place] = _drawn(rng, seed)
            _paint(picture, ink, rng, 0, place * DIGIT)
        frames[k] = np.rint(picture * 255)
    return frames, labels


def surfaces(count: int, seed: int) -> tuple[Frames, NDArray[np.bool_]]:
    """Ground alone [n, 3, 24, 24], half of it with a scratch; whether there is one. Seeds of
    training draw none."""
    rng = np.random.default_rng(seed)
    side = SIDE // 2
    frames, scratched = np.empty((count, 3, side, side), np.uint8), np.zeros(count, np.bool_)
    for k in range(count):
        picture = _ground(rng, side, side)
        if seed < TRAINING_SEEDS and k % 2:
            scratched[k] = True
            _scratch(picture, rng)
        frames[k] = np.rint(picture * 255)
    return frames, scratched


def _scratch(picture: NDArray[np.float64], rng: Generator) -> None:
    side = picture.shape[1]
    (row, column), angle = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(0, np.pi)
    for step in np.linspace(-0.3 * side, 0.3 * side, side):
        y, x = int(row + step * np.sin(angle)), int(column + step * np.cos(angle))
        picture[:, y, x] = 0.8
