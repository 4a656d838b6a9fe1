"""Batched image operations that the corruptions of CIFAR-10-C are made of.

Frames are [n, height, width, channels]; fields are [n, height, width].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Indices = NDArray[np.intp]


def draw(streams: Sequence[Generator], one: Callable[[Generator], Floats]) -> Floats:
    """One draw for each frame, from that frame's own stream."""
    return np.stack([one(stream) for stream in streams])


def gaussian_blur(frames: Floats, sigma: float) -> Floats:
    """Gaussian over height and width, cut at 4 sigma, edges repeated (as in scikit-image)."""
    blurred: Floats = ndimage.gaussian_filter(
        frames, (0, sigma, sigma, 0), mode="nearest", truncate=4
    )
    return blurred


def soft_disk(radius: float, sigma: float) -> Floats:
    """A disk on 17x17 pixels, softened by a 3x3 Gaussian; sums to 1."""
    axis = np.arange(-8, 9)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    for dimension in (0, 1):
        disk = ndimage.convolve1d(disk, taps, dimension, mode="constant")
    kernel: Floats = disk / disk.sum()
    return kernel


def convolve(frames: Floats, kernel: Floats) -> Floats:
    """Correlate height and width with a kernel, mirrored about the edge pixel (as OpenCV)."""
    result: Floats = ndimage.correlate(frames, kernel[None, :, :, None], mode="mirror")
    return result


def motion_blur(frames: Pixels, radius: int, sigma: float, degrees: Floats) -> Pixels:
    """One-sided Gaussian along an angle per frame, at nearest pixels (as ImageMagick)."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)[:, None]
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(np.intp)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(np.intp)
    height, width = frames.shape[1:3]
    index = np.arange(len(frames))[:, None, None]
    total = np.zeros(frames.shape)
    for step, weight in zip(steps, weights, strict=True):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, step, None], 0, width - 1)
        total += weight * frames[index, rows[:, :, None], columns[:, None, :]]
    return np.rint(total).astype(np.uint8)


@cache
def zoom_matrix(size: int, factor: float) -> Floats:
    """Zoom into the centre along one axis and keep `size` pixels, as [size, size] weights."""
    crop = int(np.ceil(size / factor))
    start = (size - crop) // 2
    enlarged = ndimage.zoom(np.eye(crop), (factor, 1), order=1)
    trim = (len(enlarged) - size) // 2
    matrix = np.zeros((size, size))
    matrix[:, start : start + crop] = enlarged[trim : trim + size]
    return matrix


def zoom(fields: Floats, factor: float) -> Floats:
    """Zoom fields [..., size, size] into their centre, bilinearly."""
    matrix = zoom_matrix(fields.shape[-1], factor)
    zoomed: Floats = matrix @ fields @ matrix.T
    return zoomed


def sample(
    frames: Floats, rows: Floats, columns: Floats, edge: Literal["mirror", "reflect"]
) -> Floats:
    """Bilinear values at real positions [n, height, width]; `edge` is named as in scipy."""
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    index = np.arange(len(frames))[:, None, None]
    y = [_fold(top + step, frames.shape[1], edge) for step in (0, 1)]
    x = [_fold(left + step, frames.shape[2], edge) for step in (0, 1)]
    upper = frames[index, y[0], x[0]] * (1 - right) + frames[index, y[0], x[1]] * right
    lower = frames[index, y[1], x[0]] * (1 - right) + frames[index, y[1], x[1]] * right
    return upper * (1 - down) + lower * down


def _fold(positions: Floats, size: int, edge: Literal["mirror", "reflect"]) -> Indices:
    if edge == "mirror":
        return size - 1 - np.abs(size - 1 - positions.astype(np.intp) % (2 * size - 2))
    inside = positions.astype(np.intp) % (2 * size)
    return np.minimum(inside, 2 * size - 1 - inside)


def plasma(streams: Sequence[Generator], size: int, decay: float) -> Floats:
    """Diamond-square fractals [n, size, size] in 0..1; `size` is a power of two."""
    heights = np.zeros((len(streams), size, size))
    step, spread = size, 100.0
    while step >= 2:
        half = step // 2
        shape = (size // step, size // step)

        # The published recipe multiplies by the spread twice.
        def jitter(s: Generator, shape: tuple[int, int] = shape, w: float = spread) -> Floats:
            return w * s.uniform(-w, w, shape)

        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        squares = (pairs + np.roll(pairs, -1, 2)) / 4 + draw(streams, jitter)
        heights[:, half::step, half::step] = squares
        rows = squares + np.roll(squares, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = rows / 4 + draw(streams, jitter)
        columns = squares + np.roll(squares, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = columns / 4 + draw(streams, jitter)
        step, spread = half, spread / decay
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    return heights


@cache
def frost_pictures(folder: Path) -> tuple[Pixels, ...]:
    """The frost pictures at a fifth of their size; five of the six, as in the recipe."""
    names = [f"frost{number}.{'png' if number <= 3 else 'jpg'}" for number in range(1, 6)]
    pictures = []
    for name in names:
        with Image.open(folder / name) as picture:
            # OpenCV's bilinear shrinking by five falls exactly on every fifth pixel.
            pictures.append(np.asarray(picture.convert("RGB"))[2::5, 2::5].copy())
    return tuple(pictures)
