"""What is known of one version of a written block, and how it is sealed and checked."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.errors import InputError

COLUMNS = (
    "id", "path", "version", "parent", "key", "count",
    "created", "provenance", "nbytes", "payload_sha256", "sha256",
)  # fmt: skip
LARGEST = 1 << 53  # whole numbers up to here are exact in every language, JSON included
LONGEST_ID = 128
# "" is the root, "3/51" a node, "3/51/+" a new leaf under that node, "+" one under the root.
ROOT, LEAF = "", "+"  # path of what all contexts share; end of the path of what one context learnt
PATH = re.compile(r"(?:(?:0|[1-9]\d{0,15})(?:/(?:0|[1-9]\d{0,15}))*(?:/\+)?|\+)?", re.ASCII)


@dataclass(frozen=True)
class Provenance:
    """Where a block comes from.

    bundle: identity of the bundle. steps: adaptation steps in it. mean_entropy: of the predictions
    while it was learnt, in nats. why: why it was written, for people.
    """

    bundle: str
    steps: int
    mean_entropy: float
    why: str

    def to_json(self) -> str:
        """As one line of JSON."""
        numbers = {"steps": int(self.steps), "mean_entropy": float(self.mean_entropy)}
        return json.dumps(asdict(self) | numbers, sort_keys=True)


@dataclass(frozen=True, eq=False)
class Record:
    """One version of a written block, without its arrays.

    Attributes:
        id: name of the block, for as long as it lives.
        path: its place in the tree: rows per level ("3/51"), then "+" for a new leaf.
        version: grows with every write to the state file, across all blocks.
        parent: the version that it was made from; 0 for none.
        key: [d] float32.
        count: batches, or whatever the caller counts, that the block stands for.
        created: seconds since 1970 by the device's clock; for people, nothing depends on it.
        nbytes: bytes of the payload.
    """

    id: str
    path: str
    version: int
    parent: int
    key: NDArray[np.float32]
    count: int
    created: int
    provenance: Provenance
    nbytes: int
    payload_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; the key as its length."""
        values = {**vars(self), "key": len(self.key), "provenance": asdict(self.provenance)}
        return values

    def row(self) -> tuple[Any, ...]:
        """Values of `COLUMNS`, sealed by their hash."""
        values = (
            self.id, self.path, self.version, self.parent, self.key.astype("<f4").tobytes(),
            int(self.count), self.created, self.provenance.to_json(),
            self.nbytes, self.payload_sha256,
        )  # fmt: skip
        return (*values, seal(values))


def is_id(text: str) -> bool:
    """Whether a block may have this name."""
    return 0 < len(text) <= LONGEST_ID and text.isprintable()


def seal(values: tuple[Any, ...]) -> str:
    """SHA-256 of all columns but `sha256`: one line each, blobs in hex."""
    lines = [value.hex() if isinstance(value, bytes) else str(value) for value in values]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def checked(record: Record, thing: str) -> Record:
    """The record, if all its values are ones that may be stored.

    Raises:
        InputError: which one is not.
    """
    key, provenance = record.key, record.provenance
    valid = {
        "id": is_id(record.id),
        "path": PATH.fullmatch(record.path) is not None,
        "version": 0 < record.version <= LARGEST,
        "parent": 0 <= record.parent < record.version,
        "key": key.ndim == 1 and key.dtype == np.float32 and bool(np.isfinite(key).all()),
        "count": 0 <= record.count <= LARGEST,
        "created": 0 <= record.created <= LARGEST,
        "bundle": provenance.bundle.isprintable(),
        "steps": 0 <= provenance.steps <= LARGEST,
        "mean_entropy": math.isfinite(provenance.mean_entropy),
        "why": provenance.why.isprintable() and len(provenance.why) <= 1000,
    }
    if wrong := next((name for name, fine in valid.items() if not fine), None):
        raise InputError(thing, f"has a {wrong} that cannot be stored", "See docs/formats/state.md")
    return record


def from_row(row: tuple[Any, ...]) -> Record | None:
    """The record of a row with the values of `COLUMNS`, or None if the row is damaged."""
    types = (str, str, int, int, bytes, int, int, str, int, str, str)
    if len(row) != len(types) or any(type(v) is not t for v, t in zip(row, types, strict=True)):
        return None
    if seal(row[:-1]) != row[-1] or len(row[4]) % 4:
        return None
    try:
        name, path, version, parent, key, count, created, origin, nbytes, digest = row[:-1]
        record = Record(
            name, path, version, parent, np.frombuffer(key, "<f4").astype(np.float32), count,
            created, Provenance(**json.loads(origin)), nbytes, digest,
        )  # fmt: skip
        # A right hash does not make the values right: the file may have been made by anyone.
        return checked(record, "row")
    except (ValueError, TypeError, AttributeError, RecursionError, InputError):
        return None
