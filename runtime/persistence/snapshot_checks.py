"""What a snapshot must hold before a runtime goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemem.block import Array, Arrays, Block
from edgemem.bundle.manifest import Manifest
from edgemem.bundle.rows import frames_of, layout, others_of
from edgemem.errors import InputError, StateError
from edgemem.runtime.classes.class_table import TABLE, ClassTable, own_classes, table_of
from edgemem.runtime.frames import checked
from edgemem.state.snapshot import Snapshot

RING = "ring"
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
    ring, pending = _kept_rows(arrays, manifest), counters.get("pending", 0)
    if ring is None or not 0 <= pending <= min(len(ring), manifest.frames.batch - 1):
        shape, dtype = layout(manifest.frames)
        ring, pending = np.zeros((0, *shape), dtype), 0
        lost.append(RING)
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
        ring, pending, table, tuple(lost),
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


def kept_rows(rows: Array, scale: float) -> Arrays:
    """Rows of the ring as a snapshot holds them."""
    frames = frames_of(rows)
    if frames.dtype == np.float32:
        frames = packed_frames(frames, scale)
    others = {f"{RING}.{name}": _storable(array) for name, array in others_of(rows).items()}
    return {RING: frames, **others}


def _storable(array: Array) -> Array:
    return array.astype(np.int8) if array.dtype == np.bool_ else array


def _kept_rows(arrays: Arrays, manifest: Manifest) -> Array | None:
    """The rows that a snapshot holds; None where these are not all there, or do not fit."""
    spec, ring = manifest.frames, arrays.get(RING)
    if ring is None or ring.ndim != 1 + len(spec.shape) or len(ring) > spec.batch:
        return None
    inputs = {item.name: arrays.get(f"{RING}.{item.tensor}") for item in spec.inputs}
    if any(array is None for array in inputs.values()):
        return None
    booleans = {item.name for item in spec.inputs if item.dtype == "bool"}
    known = {
        name: array != 0 if name in booleans and array.dtype == np.int8 else array
        for name, array in inputs.items()
        if array is not None
    }
    if spec.ids is None and ring.dtype not in (np.uint8, np.float32):
        return None
    if not len(ring):
        shape, dtype = layout(spec)
        fits = ring.shape[1:] in spec.shapes
        return np.zeros((0, *shape), dtype) if fits else None
    try:
        return checked(ring if spec.ids else unpacked_frames(ring, spec.uint8_scale), spec, known)
    except InputError:
        return None


# Groups of arrays without which a runtime can go on, and when they fit.
_OTHERS: dict[str, Callable[[Block, Manifest], bool]] = {
    "good": lambda part, manifest: _block_fault(part, manifest) is None,
    "opt": _fits_slots,
    "guard": lambda part, manifest: part.is_finite(),
    "contexts": lambda part, manifest: part.is_finite(),
}


def holds_frames(snapshots: Iterable[Snapshot]) -> bool:
    """Whether any holds recent frames, or might: nobody knows what a damaged one holds."""
    return any(s.damage or (RING in s.arrays and s.arrays[RING].size) for s in snapshots)


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
