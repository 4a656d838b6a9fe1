"""The 15 corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019), for images in memory.

Written afresh from the published constants and rules. ImageMagick's and OpenCV's filters are
re-done in numpy and scipy, so frames differ slightly from the published files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from benchmarks.shared import corruption_kernels as kernels
from benchmarks.shared.corruption_kernels import Floats, Pixels, draw

SIZE = 32
CHUNK = 500

Level = tuple[float, ...]
Streams = Sequence[Generator]
Rule = Callable[[Pixels, Level, Streams], Floats]

# Parameters at severity 1 to 5.
LEVELS: dict[str, tuple[Level, ...]] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": (
        (0, 0, 2.56),
        (1.6, 6.4, 2.24),
        (2.56, 1.92, 1.92),
        (3.2, 1.28, 1.6),
        (3.2, 0.96, 0.96),
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
}
CORRUPTIONS = tuple(LEVELS)


def corrupt(
    x: Pixels,
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    frost_folder: Path,
    first: int = 0,
) -> Pixels:
    """Corrupt images [n, 32, 32, 3]; equal seeds give equal images.

    Each image has a random stream of its own, named by seed, corruption, severity and position.
    `first` is the position of `x[0]`, so that chunks can be corrupted one by one.
    """
    if name not in LEVELS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity is 1 to 5, not {severity}")
    if x.dtype != np.uint8 or x.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"images are uint8 [n, {SIZE}, {SIZE}, 3], not {x.dtype} {x.shape}")
    rule = partial(frost, folder=frost_folder) if name == "frost" else RULES[name]
    key = (seed, CORRUPTIONS.index(name), severity)
    result = np.empty_like(x)
    for start in range(0, len(x), CHUNK):
        frames = x[start : start + CHUNK]
        positions = range(first + start, first + start + len(frames))
        streams = [np.random.default_rng((*key, position)) for position in positions]
        values = rule(frames, LEVELS[name][severity - 1], streams)
        # Published files are cut to integers, not rounded.
        result[start : start + CHUNK] = np.clip(values, 0, 255).astype(np.uint8)
    return result


def gaussian_noise(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Add normal noise (Hendrycks & Dietterich 2019)."""
    (sigma,) = level
    return x + 255 * draw(streams, lambda s: s.normal(0, sigma, x.shape[1:]))


def shot_noise(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Count photons (Hendrycks & Dietterich 2019)."""
    (photons,) = level
    rates = x / 255 * photons
    counts = [s.poisson(rate) for s, rate in zip(streams, rates, strict=True)]
    return np.stack(counts) * (255 / photons)


def impulse_noise(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Turn single channels fully on or off (Hendrycks & Dietterich 2019)."""
    (amount,) = level
    chance = draw(streams, lambda s: s.random(x.shape[1:]))
    return np.where(chance < amount / 2, 0.0, np.where(chance < amount, 255.0, x))


def defocus_blur(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Spread each point to a soft disk (Hendrycks & Dietterich 2019)."""
    return kernels.convolve(x.astype(np.float64), kernels.soft_disk(*level))


def glass_blur(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Blur, replace pixels by random neighbours, blur (Hendrycks & Dietterich 2019)."""
    sigma, shift, rounds = level[0], int(level[1]), int(level[2])
    frames = kernels.gaussian_blur(x.astype(np.float64), sigma).astype(np.uint8)
    places = range(SIZE - shift, shift, -1)
    shape = (rounds, len(places), len(places), 2)
    moves = np.stack([s.integers(-shift, shift, shape) for s in streams])
    index = np.arange(len(x))
    for turn in range(rounds):
        for i, row in enumerate(places):
            for j, column in enumerate(places):
                down, right = moves[:, turn, i, j].T
                # The published swap works on views: the neighbour itself stays as it is.
                frames[:, row, column] = frames[index, row + down, column + right]
    return kernels.gaussian_blur(frames.astype(np.float64), sigma)


def motion_blur(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Smear along a random direction (Hendrycks & Dietterich 2019)."""
    radius, sigma = level
    degrees = np.array([s.uniform(-45, 45) for s in streams])
    return kernels.motion_blur(x, int(radius), sigma, degrees).astype(np.float64)


def zoom_blur(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Average zooms into the centre (Hendrycks & Dietterich 2019)."""
    # The published range relies on rounding: at severities 1 and 2 it includes its end.
    factors = np.arange(1, level[0], 0.01)
    channels = x.transpose(0, 3, 1, 2).astype(np.float64)
    total = channels + sum(kernels.zoom(channels, float(factor)) for factor in factors)
    blurred: Floats = (total / (len(factors) + 1)).transpose(0, 2, 3, 1)
    return blurred


def snow(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Whiten, then add smeared flakes twice (Hendrycks & Dietterich 2019)."""
    mean, spread, factor, threshold, radius, sigma, mix = level
    flakes = kernels.zoom(draw(streams, lambda s: s.normal(mean, spread, (SIZE, SIZE))), factor)
    flakes[flakes < threshold] = 0
    layer = (np.clip(flakes, 0, 1) * 255).astype(np.uint8)[..., None]
    degrees = np.array([s.uniform(-135, -45) for s in streams])
    layer = kernels.motion_blur(layer, int(radius), sigma, degrees)
    grey = (x @ np.array([0.299, 0.587, 0.114]))[..., None]
    whitened = mix * x + (1 - mix) * np.maximum(x, grey * 1.5 + 0.5 * 255)
    fallen: Floats = whitened + layer + layer[:, ::-1, ::-1].astype(np.float64)
    return fallen


def frost(x: Pixels, level: Level, streams: Streams, folder: Path) -> Floats:
    """Add a random crop of a frost picture (Hendrycks & Dietterich 2019)."""
    keep, strength = level
    pictures = kernels.frost_pictures(folder)
    crops = []
    for stream in streams:
        picture = pictures[stream.integers(len(pictures))]
        row = stream.integers(0, picture.shape[0] - SIZE)
        column = stream.integers(0, picture.shape[1] - SIZE)
        crops.append(picture[row : row + SIZE, column : column + SIZE])
    return keep * x + strength * np.stack(crops)


def fog(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Add plasma clouds, keep the brightest value (Hendrycks & Dietterich 2019)."""
    amount, decay = level
    clouds = kernels.plasma(streams, SIZE, decay)[..., None]
    brightest = x.max((1, 2, 3), keepdims=True) / 255
    foggy: Floats = (x + 255 * amount * clouds) * brightest / (brightest + amount)
    return foggy


def brightness(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Raise the value of HSV, keeping hue and saturation (Hendrycks & Dietterich 2019)."""
    value = x.max(-1, keepdims=True)
    raised = np.minimum(value + 255 * level[0], 255)
    # Black has neither hue nor saturation and becomes grey.
    brighter: Floats = np.where(value > 0, x * (raised / np.maximum(value, 1)), raised)
    return brighter


def contrast(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Shrink towards each channel's mean (Hendrycks & Dietterich 2019)."""
    mean = x.mean((1, 2), keepdims=True)
    faded: Floats = (x - mean) * level[0] + mean
    return faded


def elastic_transform(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Jitter by an affine map, then by a smooth field (Hendrycks & Dietterich 2019)."""
    amplitude, sigma, jitter = level
    centre, reach = SIZE // 2, SIZE // 3
    corners = centre + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + draw(streams, lambda s: s.uniform(-jitter, jitter, (3, 2)))
    square = np.concatenate([moved, np.ones((len(x), 3, 1))], -1)
    back = np.linalg.solve(square, np.broadcast_to(corners, moved.shape))
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    grid = np.stack([columns, rows, np.ones_like(rows)], -1)
    sources = np.einsum("hwi,nij->nhwj", grid, back)
    warped = kernels.sample(x.astype(np.float64), sources[..., 1], sources[..., 0], "mirror")
    fields = draw(streams, lambda s: s.uniform(-1, 1, (2, SIZE, SIZE)))
    smooth = ndimage.gaussian_filter(fields, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    shifts = amplitude * smooth
    return kernels.sample(warped, rows + shifts[:, 0], columns + shifts[:, 1], "reflect")


def pixelate(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Shrink and enlarge with box filters (Hendrycks & Dietterich 2019)."""
    side = int(SIZE * level[0])
    box = Image.Resampling.BOX

    def one(frame: Pixels) -> Pixels:
        small = Image.fromarray(frame).resize((side, side), box)
        return np.asarray(small.resize((SIZE, SIZE), box))

    return np.stack([one(frame) for frame in x]).astype(np.float64)


def jpeg_compression(x: Pixels, level: Level, streams: Streams) -> Floats:
    """Encode and decode as JPEG (Hendrycks & Dietterich 2019)."""

    def one(frame: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=int(level[0]))
        with Image.open(buffer) as picture:
            return np.asarray(picture)

    return np.stack([one(frame) for frame in x]).astype(np.float64)


RULES: dict[str, Rule] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
