"""Moving written blocks to another device, or back to the factory: one safetensors file.

Metadata: `format`, `bundle` (identity) and `blocks`, a JSON list with the columns of every block
but its key. Tensors: `key.N` float32 [d] and `payload.N` uint8 [n], the block's own safetensors
bytes, so that its hashes hold wherever it goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from edgemem.bank.written.block_table import sha256
from edgemem.bank.written.record import COLUMNS, LARGEST, ROOT, Record, from_row
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.block import DTYPES, Arrays, is_sound, unpack
from edgemem.errors import InputError, StateError
from edgemem.files.atomic import write_file
from edgemem.files.untrusted import require_file
from edgemem.state.store import State

FORMAT = "edgemem-blocks-1"
REMEDY = "Export the blocks again"


@dataclass(frozen=True)
class Imported:
    """What an import led to.

    Attributes:
        taken: ids that are new here, or newer.
        kept: ids whose own version is as high or higher.
    """

    taken: list[str]
    kept: list[str]


def export_blocks(state: State, out: Path, block_ids: Iterable[str] | None = None) -> list[Record]:
    """Write the current version of blocks to a file; all of them if none is named.

    Its owner alone can read the file.

    Raises:
        InputError: no such block, or the file cannot be written.
        StateError: a block is damaged; name the others to leave it out.
    """
    blocks = WrittenBlocks(state)
    if block_ids is None:
        listing = blocks.listing()
        if listing.damage:
            raise listing.damage[0]
        block_ids = [record.id for record in listing.records]
    records, tensors = [], {}
    for number, name in enumerate(dict.fromkeys(block_ids)):
        record, payload = blocks.payload(name)
        records.append(record)
        tensors[f"key.{number}"] = record.key
        tensors[f"payload.{number}"] = np.frombuffer(payload, np.uint8)
    rows = [dict(zip(COLUMNS, record.row(), strict=True)) for record in records]
    columns = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    about = {"format": FORMAT, "bundle": state.bundle_identity, "blocks": json.dumps(columns)}
    write_file(out, safetensors.numpy.save(tensors, about), private=True)
    return records


def bundle_of(path: Path) -> str:
    """Identity of the bundle that the blocks of a file belong to.

    Raises:
        InputError: not a file of blocks.
    """
    with _opened(path) as file:
        return str(_about(file, path)["bundle"])


def import_blocks(state: State, path: Path) -> Imported:
    """Take the blocks of a file that are newer than the state's own: all of them, or none.

    Names of classes that were taught stay behind with the snapshot: what the blocks know of a class
    without a name here is "class-" and its number, until somebody renames it.

    Raises:
        InputError: the file is damaged, of another bundle, holds arrays of other shapes, values
            that no sound block has, or leaves that stand on another root than the state's.
    """
    blocks, taken, kept = WrittenBlocks(state), list[str](), list[str]()
    known = _known_arrays(state, blocks)
    before, found = blocks.listing().records, list[Record]()
    with state.transaction():
        for record, payload in read_blocks(path, state.bundle_identity):
            _require_fit(known, record, payload, path)
            own = blocks.version(record.id)
            (kept if own >= record.version else taken).append(record.id)
            found.append(record)
            if own < record.version:
                blocks.adopt(record, payload)
        _require_one_root(before, found, set(taken), path)
    return Imported(taken, kept)


def _require_one_root(own: list[Record], found: list[Record], taken: set[str], path: Path) -> None:
    """Leaves are differences to a root: those of two devices make no sense beside each other."""
    roots, own_roots = (
        {record.id: record.payload_sha256 for record in records if record.path == ROOT}
        for records in (found, own)
    )
    if roots == own_roots:
        return
    same = {(record.id, record.payload_sha256) for record in found}
    stay = [r for r in own if r.id not in taken and (r.id, r.payload_sha256) not in same]
    root_comes = bool(taken & set(roots))
    if stay if root_comes else taken - set(roots):
        raise InputError(
            str(path),
            "holds leaves of another root than the state's own",
            "Import into a new state file, or build levels from both: edgemem bank build --help",
        )


def read_blocks(path: Path, bundle: str) -> Iterator[tuple[Record, bytes]]:
    """The checked blocks of a file, one at a time, with their arrays as safetensors bytes.

    Raises:
        InputError: the file is damaged, or its blocks belong to another bundle.
    """
    with _opened(path) as file:
        about = _about(file, path)
        if about["bundle"] != bundle:
            raise InputError(
                str(path),
                "holds blocks of another bundle",
                "Use it with the bundle that its device ran",
            )
        rows = _rows(about["blocks"], path)
        if len(list(file.keys())) != 2 * len(rows):
            raise _damaged(path, "holds arrays of blocks that it does not list")
        for number, columns in enumerate(rows):
            key, payload = _tensor(file, f"key.{number}"), _tensor(file, f"payload.{number}")
            if key is None or payload is None or not isinstance(columns, dict):
                raise _damaged(path, f"block {number} is incomplete")
            columns["key"] = key.tobytes()
            record = from_row(tuple(columns.get(name) for name in COLUMNS))
            content = payload.tobytes()
            # Half of all numbers stay for versions to come.
            if record is None or record.version > LARGEST // 2:
                raise _damaged(path, f"block {number} is damaged")
            if sha256(content) != record.payload_sha256 or len(content) != record.nbytes:
                raise _damaged(path, f"block {record.id!r} is damaged")
            yield record, content


def _known_arrays(state: State, blocks: WrittenBlocks) -> Arrays:
    """Arrays by name that show which shapes fit; "key" for the key."""
    known: Arrays = {}
    for snapshot in state.snapshots():  # a damaged one shows nothing
        found = {n for n in snapshot.arrays if n.startswith("block.")}
        known = {n.removeprefix("block."): snapshot.arrays[n] for n in found} | known
    for record in blocks.listing().records:
        with suppress(StateError):  # a damaged block shows nothing; the import may replace it
            known |= _forms(record, blocks.read(record.id)[1])
    return known


def _forms(record: Record, arrays: Arrays) -> Arrays:
    """Arrays of a block, and its key, if it has one: the root is found without."""
    return {**arrays, _KEY: record.key} if record.key.size else arrays


_KEY = "\0key"  # no array of a block has this name


def _require_fit(known: Arrays, record: Record, payload: bytes, path: Path) -> None:
    thing = f"{path}: block {record.id!r}"
    arrays = unpack(payload, thing, InputError, REMEDY)
    if any(array.dtype.name not in DTYPES for array in arrays.values()) or not is_sound(arrays):
        raise InputError(
            thing,
            "holds values that no sound block has (NaN, infinite, or beyond 1e30)",
            "Leave it out: edgemem bank export with --id for each of the others",
        )
    for name, array in _forms(record, arrays).items():
        other = known.setdefault(name, array)
        if (other.shape, other.dtype) != (array.shape, array.dtype):
            what = "the key" if name == _KEY else f"array {name!r}"
            raise InputError(
                thing,
                f"does not fit: {what} is {array.dtype}{list(array.shape)}, "
                f"here {other.dtype}{list(other.shape)}",
                "Import it where the same bundle runs",
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    require_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise _damaged(path, f"is not readable safetensors ({error})") from error
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise InputError(str(path), reason, "Pass a file of edgemem bank export") from error


def _about(file: Any, path: Path) -> dict[str, str]:
    about: dict[str, str] = file.metadata() or {}
    if about.get("format") != FORMAT or not {"bundle", "blocks"} <= set(about):
        raise InputError(str(path), "is not a file of blocks", "Pass a file of edgemem bank export")
    return about


def _rows(text: str, path: Path) -> list[Any]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "has an unreadable list of blocks") from error
    if not isinstance(rows, list):
        raise _damaged(path, "has no list of blocks")
    return rows


def _tensor(file: Any, name: str) -> Any:
    if name not in file.keys():  # noqa: SIM118 - not a mapping
        return None
    array = file.get_tensor(name)
    expected = np.float32 if name.startswith("key") else np.uint8
    return array if array.ndim == 1 and array.dtype == expected else None


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(str(path), reason, REMEDY)
