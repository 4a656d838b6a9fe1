"""What a snapshot must hold before a runtime goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgemem.block import Array, Arrays, is_finite
from edgemem.errors import StateError
from edgemem.manifest import Manifest
from edgemem.runtime.contract import stripped
from edgemem.snapshot import Snapshot


def checked_snapshot(snapshot: Snapshot, manifest: Manifest, path: Path) -> tuple[Array, int]:
    """The recent frames of a snapshot [n, ...], and how many of them wait for a step.

    Raises:
        StateError: arrays that are not finite or do not fit the bundle.
    """
    pending, ring = snapshot.counters.get("pending", 0), snapshot.arrays.get("ring")
    frames = manifest.frames
    if (
        ring is None
        or ring.shape[1:] != frames.shape
        or ring.dtype not in (np.uint8, np.float32)
        or len(ring) > frames.batch
        or not 0 <= pending < frames.batch
        or manifest.block.mismatch(stripped("block", snapshot.arrays)) is not None
        or manifest.block.mismatch(stripped("good", snapshot.arrays)) is not None
        or not _fits_slots(manifest, stripped("opt", snapshot.arrays))
        or not is_finite(snapshot.arrays)
    ):
        raise StateError(
            str(path),
            "holds arrays that do not fit the bundle",
            "Delete the state file to start again from the bundle",
        )
    return unpacked_frames(ring, frames.uint8_scale), pending


def _fits_slots(manifest: Manifest, slots: Arrays) -> bool:
    """Whether the optimiser can go on with these; commits that nobody asked for have none."""
    return not slots or manifest.slots.mismatch(slots) is None


def packed_frames(frames: Array, scale: float) -> Array:
    """Frames as uint8 if they were uint8 once, else as they are: a quarter of the bytes."""
    if frames.size and (frames.min() < 0 or frames.max() > 255 / scale):
        return frames
    small = np.rint(frames * np.float32(scale)).astype(np.uint8)
    return small if np.array_equal(unpacked_frames(small, scale), frames) else frames


def unpacked_frames(frames: Array, scale: float) -> Array:
    """Frames as the graphs take them, float32."""
    if frames.dtype != np.uint8:
        return frames
    return np.asarray(frames.astype(np.float32) / np.float32(scale))


def carried(arrays: Arrays, counters: Mapping[str, int]) -> Snapshot:
    """What a runtime that tells no contexts apart keeps for one that does."""
    names = [name for name in arrays if name.startswith("contexts.")]
    return Snapshot(
        {name: arrays[name] for name in names},
        {"opened": counters["opened"], "present": -1} if "opened" in counters else {},
    )


def shared(block: Arrays, *others: Arrays) -> Arrays:
    """The first of the others with the same values, or the block itself."""
    return next((o for o in others if all(np.array_equal(o[n], block[n]) for n in block)), block)
