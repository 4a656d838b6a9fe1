"""Reference frames: the same numbers on every machine, without storing them.

A bundle holds what torch computed on these frames; `edgemem verify` computes it again. How far from
that a device may be is said here. A bundle whose network rounds more says so, within a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, ArraySpec, BlockSpec, is_finite, unpack
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import InputSpec
from edgemem.bundle.manifest import REMEDY, Manifest
from edgemem.bundle.rows import joined
from edgemem.errors import BundleError

MULTIPLIER = 2654435761  # Knuth's multiplicative hash, 2**32 / golden ratio
# Of answers, relative to the largest; and the most that a bundle may ask for. Kernels in eight bits
# round values that lie between two steps to one side or the other.
TOLERANCE, MOST_TOLERANCE = 1e-4, 5e-2
ASKED = "tolerance"  # array of the reference: of each of `OUTPUTS`, where it is more
OUTPUTS = ("frozen", "adapt", "adapted")
SEEDS = 1 << 32
MOST_KEPT = 4096  # numbers of an output that are kept of a frame; of logits, all


@dataclass(frozen=True)
class Reference:
    """What a bundle says about its reference frames.

    Attributes:
        answers: by `OUTPUTS`, for each of the manifest's answers what `kept` leaves of it.
        parameters: hyper-parameters as they were then.
        tolerance: by `OUTPUTS`, how far from the answers a device may be.
    """

    seed: int
    answers: dict[str, Arrays]
    parameters: dict[str, float]
    tolerance: dict[str, float]


def read_reference(content: bytes, thing: str, manifest: Manifest) -> Reference:
    """What a reference file holds.

    Raises:
        BundleError: other arrays, shapes or dtypes than it has to hold, or impossible values.
    """
    found = unpack(content, thing, BundleError, REMEDY)
    sizes = reference_sizes(manifest)
    parameters = [name for name in manifest.hyper_parameters if f"hp.{name}" in found]
    specs = [ArraySpec("seed", (), "int64")]
    specs += [ArraySpec(ASKED, (len(OUTPUTS),), "float32")] if ASKED in found else []
    specs += [
        ArraySpec(f"{name}.{answer}", (manifest.frames.batch, size), "float32")
        for name in OUTPUTS
        for answer, size in sizes.items()
    ]
    specs += [ArraySpec(f"hp.{name}", (), "float32") for name in parameters]
    if reason := BlockSpec(tuple(specs)).mismatch(found):
        raise BundleError(thing, reason, REMEDY)
    if not is_finite(found):
        raise BundleError(thing, "holds NaN or infinite values", REMEDY)
    seed, asked = int(found["seed"]), found.get(ASKED, np.zeros(len(OUTPUTS), np.float32))
    if not 0 <= seed < SEEDS or not (asked <= np.float32(MOST_TOLERANCE)).all():
        raise BundleError(thing, f"has the seed {seed}, or {ASKED} {asked.tolist()}", REMEDY)
    return Reference(
        seed,
        {name: {answer: found[f"{name}.{answer}"] for answer in sizes} for name in OUTPUTS},
        {name: float(found[f"hp.{name}"]) for name in parameters},
        {n: max(TOLERANCE, float(t)) for n, t in zip(OUTPUTS, asked, strict=True)},
    )


def reference_sizes(manifest: Manifest) -> dict[str, int]:
    """Numbers of each answer that a reference file keeps of a frame."""
    if manifest.task is None:
        return dict.fromkeys(manifest.answers, manifest.classes)
    sizes = [manifest.task.summary, *(math.prod(o.shape) for o in manifest.task.outputs)]
    return {n: kept_of(s) for n, s in zip(manifest.answers, sizes, strict=True)}


def kept(output: Array) -> NDArray[np.float32]:
    """Of an output, the frames first: at most `MOST_KEPT` of its numbers, from all over it."""
    flat = np.asarray(output, np.float32).reshape(len(output), -1)
    return np.ascontiguousarray(flat[:, :: _stride(flat.shape[1])])


def kept_of(size: int) -> int:
    """How many of so many numbers `kept` leaves."""
    return -(-size // _stride(size))


def _stride(size: int) -> int:
    return max(1, -(-size // MOST_KEPT))


def reference_frames(spec: FrameSpec, seed: int = 0) -> Array:
    """One batch of rows: frames [batch, *shape], and what comes beside them.

    Frames are float32 in [0, 1), coarse patterns with noise on top; or token ids.
    """
    frames: Array = _patterns(spec, seed)
    if spec.ids is not None:
        frames = _whole(_hashed(frames.size, seed).reshape(frames.shape), *spec.ids)
    others = {given.tensor: _beside(given, spec.batch, seed) for given in spec.inputs}
    return joined(frames, others)


def _beside(spec: InputSpec, batch: int, seed: int) -> Array:
    """Values between the least and the largest.

    The first one of each frame is the largest and the last one the least: whichever of them hides
    a place in a mask, some place is seen.
    """
    shape = (batch, *spec.shape)
    seed += sum(spec.name.encode())  # other numbers for every input
    found = _hashed(math.prod(shape), seed).reshape(shape)
    if spec.dtype == "float32":
        return (spec.low + (spec.high - spec.low) * found).astype(np.float32)
    whole = _whole(found, int(spec.low), int(spec.high))
    if whole.ndim > 1:
        rows = whole.reshape(batch, -1)
        rows[:, -1], rows[:, 0] = spec.low, spec.high
    return whole.astype(spec.dtype)


def _whole(shares: NDArray[np.float64], low: int, high: int) -> NDArray[np.int64]:
    """Numbers in [0, 1) -> whole numbers from low to high."""
    return low + np.floor(shares * (high - low + 1)).astype(np.int64)


def _patterns(spec: FrameSpec, seed: int) -> NDArray[np.float32]:
    shape = (spec.batch, *spec.shape)
    noise = _hashed(math.prod(shape), seed).reshape(shape)
    level = _hashed(spec.batch, seed + 1).reshape(-1, *[1] * len(spec.shape))
    wave = np.zeros(shape, np.float64)
    for axis in range(2, len(shape)):
        phase = np.arange(shape[axis]) / shape[axis]
        wave = wave + np.reshape(phase, [-1 if a == axis else 1 for a in range(len(shape))])
    pattern = np.abs((wave * (1 + 3 * level) + level) % 1.0)
    return (0.75 * pattern + 0.25 * noise).astype(np.float32)


def _hashed(count: int, seed: int) -> NDArray[np.float64]:
    index = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 7919)
    mixed = (index * np.uint64(MULTIPLIER)) % np.uint64(1 << 32)
    mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(MULTIPLIER)) % np.uint64(1 << 32)
    return mixed / float(1 << 32)
