"""What a snapshot must hold before a runtime goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemem.block import Array, Arrays, Block
from edgemem.bundle.manifest import Manifest
from edgemem.errors import StateError
from edgemem.runtime.classes.class_table import TABLE, ClassTable, own_classes, table_of
from edgemem.runtime.frames import bad_frames
from edgemem.state.snapshot import Snapshot

CLASSES = "classes"  # among what is lost: names that people gave


@dataclass(frozen=True, eq=False)
class Checked:
    """What a snapshot holds that can be gone on from.

    Attributes:
        arrays: those of the snapshot that fit.
        counters: those of the snapshot that fit.
        good: the last sound block.
        slots: the optimiser's.
        frames: the recent ones [n, ...].
        pending: how many of them wait for a step.
        table: of classes.
        lost: parts that do not fit, in words; for each there is what a new start has.
    """

    arrays: Arrays
    counters: Mapping[str, int]
    block: Block
    good: Block
    slots: Block
    frames: Array
    pending: int
    table: ClassTable
    lost: tuple[str, ...]


def checked_snapshot(snapshot: Snapshot, manifest: Manifest, path: Path) -> Checked:
    """What a snapshot holds, as far as it fits the bundle.

    Raises:
        StateError: there is no block to go on with.
    """
    arrays, counters, lost = dict(snapshot.arrays), snapshot.counters, list[str]()
    block = Block.named("block", arrays)
    if (reason := _block_fault(block, manifest)) is not None:
        raise StateError(
            str(path),
            f"holds arrays that do not fit the bundle (its block: {reason})",
            "Delete the state file and the files beside it to start again",
        )
    for group, fits in _OTHERS.items():
        if not fits(Block.named(group, arrays), manifest):
            arrays = {n: a for n, a in arrays.items() if not n.startswith(f"{group}.")}
            lost.append(group)
    ring, pending = arrays.get("ring"), counters.get("pending", 0)
    frames = manifest.frames
    whole = ring is not None and _fits_ring(ring, manifest)
    if ring is None or not whole or not 0 <= pending <= min(len(ring), frames.batch - 1):
        ring, pending = np.zeros((0, *frames.shape), np.float32), 0
        lost.append("ring")
    try:
        table = table_of(arrays.get(TABLE), manifest, str(path))
    except StateError:
        table = own_classes(manifest)
        lost.append(CLASSES)
    if TABLE not in arrays and manifest.teaching is not None:
        lost.append(CLASSES)
    return Checked(
        arrays, counters, block,
        Block.named("good", arrays) or block,
        Block.named("opt", arrays) or manifest.slots.zero(),
        unpacked_frames(ring, frames.uint8_scale), pending, table, tuple(lost),
    )  # fmt: skip


def require_readable(snapshot: Snapshot, manifest: Manifest, path: Path) -> None:
    """Before a commit: all of it must be there again when the state is opened.

    Raises:
        StateError: something would not.
    """
    remedy = "The last commit is still there: runtime.rollback() goes back to it"
    try:
        lost = checked_snapshot(snapshot, manifest, path).lost
    except StateError as error:
        raise StateError(str(path), f"was not written: it {error.reason}", remedy) from error
    if lost:
        reason = f"was not written: what it holds would not fit the bundle (its {lost[0]})"
        raise StateError(str(path), reason, remedy)


def _block_fault(block: Block, manifest: Manifest) -> str | None:
    reason = manifest.block.mismatch(block)
    return reason or (None if block.is_sound() else "not finite")


def _fits_slots(slots: Block, manifest: Manifest) -> bool:
    """Whether the optimiser can go on with these; commits that nobody asked for have none."""
    return not slots or (manifest.slots.mismatch(slots) is None and slots.is_finite())


def _fits_ring(ring: Array, manifest: Manifest) -> bool:
    frames = manifest.frames
    if ring.dtype not in (np.uint8, np.float32) or ring.ndim != 1 + len(frames.shape):
        return False
    fits = ring.shape[1:] == frames.shape and len(ring) <= frames.batch
    return fits and (ring.dtype == np.uint8 or not len(bad_frames(ring)))


# Groups of arrays without which a runtime can go on, and when they fit.
_OTHERS: dict[str, Callable[[Block, Manifest], bool]] = {
    "good": lambda part, manifest: _block_fault(part, manifest) is None,
    "opt": _fits_slots,
    "guard": lambda part, manifest: part.is_finite(),
    "contexts": lambda part, manifest: part.is_finite(),
}


def holds_frames(snapshots: Iterable[Snapshot]) -> bool:
    """Whether any holds recent frames, or might: nobody knows what a damaged one holds."""
    return any(s.damage or ("ring" in s.arrays and s.arrays["ring"].size) for s in snapshots)


def packed_frames(frames: Array, scale: float) -> Array:
    """Frames as uint8 if they were uint8 once, else as they are: a quarter of the bytes."""
    if frames.size and not (frames.min() >= 0 and frames.max() <= 255 / scale):
        return frames
    small = np.rint(frames * np.float32(scale)).astype(np.uint8)
    return small if np.array_equal(unpacked_frames(small, scale), frames) else frames


def unpacked_frames(frames: Array, scale: float) -> Array:
    """Frames as the graphs take them, float32."""
    if frames.dtype != np.uint8:
        return frames
    return np.asarray(frames.astype(np.float32) / np.float32(scale))
