"""Eight things that may happen to a camera that reads text, and frames as they were.

None of them is a shift by which export chooses (`edgemem.shifts`): noise, blur and impulses are of
other kinds there. Each has one strength, set before anything was aligned, so that the frozen
recogniser still reads most of the text.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.ocr.rendering import Frames

Floats = NDArray[np.float64]
CLEAN = "clean"


def noise(x: Floats, rng: Generator) -> Floats:
    """Few photons: their number is Poisson's, and the sensor adds noise of its own."""
    return rng.poisson(x * 8) / 8 + rng.normal(0, 0.1, x.shape)


def impulse(x: Floats, rng: Generator) -> Floats:
    """Pixels that are black or white."""
    hit = rng.random((len(x), 1, *x.shape[2:])) < 0.12
    return np.where(hit, rng.integers(0, 2, hit.shape), x)


def blur(x: Floats, rng: Generator) -> Floats:
    """Out of focus."""
    blurred: Floats = ndimage.gaussian_filter(x, (0, 0, 2.2, 2.2), mode="nearest")
    return blurred


def motion(x: Floats, rng: Generator) -> Floats:
    """The camera moves sideways."""
    moved: Floats = ndimage.uniform_filter1d(x, 7, axis=3, mode="nearest")
    return moved


def dark(x: Floats, rng: Generator) -> Floats:
    """An eighth of the light, and a little noise."""
    return x / 8 + rng.normal(0, 0.03, x.shape)


def haze(x: Floats, rng: Generator) -> Floats:
    """A bright veil: a quarter of the contrast is left."""
    return 0.7 + 0.25 * (x - 0.5) + rng.normal(0, 0.02, x.shape)


def shadow(x: Floats, rng: Generator) -> Floats:
    """Half of each frame lies in shadow, with a soft edge."""
    edge = rng.uniform(0.25, 0.75, (len(x), 1, 1, 1))
    place = np.linspace(0, 1, x.shape[3])
    light = 0.12 + 0.88 / (1 + np.exp((place - edge) * 30))
    return x * light


def compression(x: Floats, rng: Generator) -> Floats:
    """A JPEG file of low quality."""
    return np.stack([_stored(frame) for frame in x])


SHIFTS: dict[str, Callable[[Floats, Generator], Floats]] = {
    "noise": noise,
    "impulse": impulse,
    "blur": blur,
    "motion": motion,
    "dark": dark,
    "haze": haze,
    "shadow": shadow,
    "compression": compression,
}


def shifted(frames: Frames, name: str, seed: int) -> Frames:
    """Frames [n, 3, h, w] under a shift, or as they were (`CLEAN`)."""
    if name == CLEAN:
        return frames
    found = SHIFTS[name](frames / 255, np.random.default_rng(seed))
    return np.asarray(np.rint(found.clip(0, 1) * 255), np.uint8)


def _stored(frame: Floats) -> Floats:
    pixels = np.asarray(np.rint(frame.transpose(1, 2, 0) * 255), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=4)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        return np.asarray(image, np.float64).transpose(2, 0, 1) / 255
