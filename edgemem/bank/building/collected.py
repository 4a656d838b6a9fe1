"""What devices learnt, as a source of a new bank: keys and blocks of their contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.building.keys import Source, new_array
from edgemem.bank.building.means import path_value
from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.written.record import LEAF, ROOT, Record
from edgemem.bank.written.transfer import read_blocks
from edgemem.block import is_sound, unpack
from edgemem.bundle.opening import Bundle
from edgemem.errors import InputError

Row = NDArray[np.float32]
REMEDY = "Leave it out: edgemem bank export --id, once for each other block"


def open_learnt(
    bundle: Bundle,
    files: Sequence[Path],
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Source:
    """Keys and blocks of the contexts in files of `edgemem bank export`, one file a device.

    A block is what the device adds to the generic one: its root less the generic block, the shipped
    rows along the context's path, and the context's leaf. A file without root is of a device whose
    root is the generic block. Keys are as the device compares them. Classes that a device was
    taught are left out: another gave their numbers to others.

    Args:
        bundle: the one that all devices run.
        files: one a device.
        folder: where both arrays are written.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        InputError: a file is damaged or of another bundle, or a block does not fit.
        BankError: a shipped row of such a path is damaged.
    """
    contexts = sum(1 for path in files for _ in _leaves(bundle, path))
    if not contexts:
        raise InputError(
            ", ".join(str(path) for path in files),
            "holds no block of a context",
            "Export the blocks of a device that ran with contexts",
        )
    size = bundle.manifest.block.elements
    keys = new_array(folder / "keys.npy", np.float32, (contexts, bundle.manifest.key))
    blocks = new_array(folder / "blocks.npy", np.float32, (contexts, size))
    number = 0
    with ExitStack() as stack:
        shipped = [] if bundle.bank is None else open_levels(bundle.bank)
        for level in shipped:
            stack.enter_context(level)
        for path in files:
            root = _root(bundle, path)
            for record, leaf in _leaves(bundle, path):
                keys[number] = record.key
                blocks[number] = root + _above(record, shipped, path, size) + leaf
                number += 1
                progress("read contexts", number, contexts)
    return Source(keys, blocks)


def learnt_opener(bundle: Bundle, files: Sequence[Path]) -> Callable[..., Source]:
    """The files as a source for `build_bank`."""
    return partial(open_learnt, bundle, files)


def _leaves(bundle: Bundle, path: Path) -> Iterator[tuple[Record, Row]]:
    """Records of contexts, with their arrays as one vector."""
    for record, payload in read_blocks(path, bundle.identity):
        if record.path == ROOT:
            continue
        thing = f"{path}: block {record.id!r}"
        if not record.path.endswith(LEAF):
            raise InputError(thing, f"has the path {record.path}, of no context", REMEDY)
        if record.key.shape != (bundle.manifest.key,):
            reason = f"has a key of {record.key.size} numbers, not {bundle.manifest.key}"
            raise InputError(thing, reason, REMEDY)
        yield record, _values(bundle, payload, thing)


def _root(bundle: Bundle, path: Path) -> Row:
    """What the root of a device adds to the generic block."""
    spec, root = bundle.manifest.block, None
    for record, payload in read_blocks(path, bundle.identity):
        if record.path == ROOT:
            thing = f"{path}: block {record.id!r}"
            if root is not None:
                raise InputError(thing, "is a second root", REMEDY)
            root = _values(bundle, payload, thing) - spec.flatten(bundle.generic)
    return np.zeros(spec.elements, np.float32) if root is None else root


def _values(bundle: Bundle, payload: bytes, thing: str) -> Row:
    manifest, arrays = bundle.manifest, unpack(payload, thing, InputError, REMEDY)
    spec = manifest.block
    if reason := spec.mismatch(arrays):
        raise InputError(thing, f"does not fit the bundle: {reason}", REMEDY)
    if not is_sound(arrays):
        raise InputError(thing, "holds NaN, infinite values, or values beyond 1e30", REMEDY)
    # Numbers of taught classes mean something else on every device.
    taught = () if manifest.teaching is None else manifest.teaching.arrays
    return spec.flatten(arrays | {name: np.zeros_like(arrays[name]) for name in taught})


def _above(record: Record, shipped: Sequence[Level], path: Path, size: int) -> Row:
    """Sum of the shipped rows that a leaf was learnt on top of."""
    rows = [int(row) for row in record.path.split("/")[:-1]]
    if not rows:
        return np.zeros(size, np.float32)
    levels, parents = shipped[: len(rows)], [0, *rows[:-1]]
    fits = len(levels) == len(rows) and all(
        row < level.shape.rows and row // level.shape.branch == parent
        for row, level, parent in zip(rows, levels, parents, strict=True)
    )
    if not fits:
        raise InputError(
            f"{path}: block {record.id!r}",
            f"has the path {record.path}, which the bundle's bank does not have",
            REMEDY,
        )
    return path_value(levels, rows[-1])
