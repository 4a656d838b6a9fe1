"""The header of a level file: which arrays lie where, checked before anything relies on it.

A level file is plain safetensors. `docs/formats/bank.md` describes it byte by byte.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemem.errors import BankError
from edgemem.files.typed_json import Value, read_json

FORMAT = "edgemem-level-1"
LONGEST_HEADER = 1 << 16
DEEPEST_LEVEL = 32
MOST_ROWS = 1 << 32
MOST_KEY_BYTES = 64 << 20  # of the children of one node, which are read at once
DECIMAL = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
HEXADECIMAL = re.compile(r"[0-9a-f]{8}", re.ASCII)
REMEDY = "Build the bank again or get a fresh copy"
DTYPES = {"I64": "<i8", "F32": "<f4", "F16": "<f2", "U32": "<u4", "I8": "|i1"}
STORAGES = {"float32": "F32", "float16": "F16", "int8": "I8"}
# What `index_crc` covers, in this order.
INDEX = ("parent", "count", "keys", "scale", "key_crc", "crc")


@dataclass(frozen=True)
class LevelShape:
    """What determines the size of a level file.

    Attributes:
        number: 1 for the level below the root.
        branch: children of a node.
        key_length: numbers of a key.
        elements: numbers of a block.
        storage: float32, float16 or int8.
    """

    number: int
    branch: int
    key_length: int
    elements: int
    storage: str = "float32"

    @property
    def rows(self) -> int:
        """Nodes of the level, absent ones included."""
        return int(self.branch**self.number)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of stored blocks."""
        return np.dtype(DTYPES[STORAGES[self.storage]])

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one block."""
        return self.elements * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Stored bytes of everything but header and blocks."""
        return sum(_nbytes(*array) for name, array in self.tensors().items() if name != "blocks")

    def too_large(self) -> str | None:
        """Why a level of this shape cannot be used, or None."""
        found = self.branch * self.key_length * 4
        if found <= MOST_KEY_BYTES:
            return None
        return f"has {found:,} bytes of keys below one node, more than {MOST_KEY_BYTES:,}"

    def tensors(self) -> dict[str, tuple[str, list[int]]]:
        """Dtype code and shape of every array, in the order of our files: widest numbers first."""
        n, scaled = self.rows, self.storage == "int8"
        return {
            "parent": ("I64", [n]),
            "count": ("I64", [n]),
            "keys": ("F32", [n, self.key_length]),
            **({"scale": ("F32", [n])} if scaled else {}),
            "key_crc": ("U32", [n]),
            "crc": ("U32", [n]),
            "blocks": (STORAGES[self.storage], [n, self.elements]),
        }


@dataclass(frozen=True)
class LevelHeader:
    """A checked header. begin: where each array starts in the file. index_crc: see INDEX."""

    shape: LevelShape
    begin: dict[str, int]
    index_crc: int


def encode_header(shape: LevelShape, index_crc: int = 0) -> bytes:
    """The header of a level file; its length does not depend on `index_crc`."""
    metadata = {
        "format": FORMAT,
        "level": str(shape.number),
        "branch": str(shape.branch),
        "index_crc": f"{index_crc:08x}",
    }
    fields: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (code, sizes) in shape.tensors().items():
        begin, end = end, end + _nbytes(code, sizes)
        fields[name] = {"dtype": code, "shape": sizes, "data_offsets": [begin, end]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(handle: int, thing: str) -> LevelHeader:
    """Read and check the header of an open level file.

    Raises:
        BankError: damaged, another format, or sizes that do not add up to the file's.
    """
    try:
        size = os.fstat(handle).st_size
        length = int.from_bytes(os.pread(handle, 8, 0), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise BankError(thing, "is not a level file", REMEDY)
        content = os.pread(handle, length, 8)
    except OSError as error:
        raise BankError(thing, f"cannot be read ({error.strerror or error})", REMEDY) from error
    return _checked(read_json(content, thing, BankError, REMEDY), 8 + length, size)


def _checked(document: Value, start: int, size: int) -> LevelHeader:
    metadata = document.field("__metadata__")
    if (found := metadata.field("format")).text() != FORMAT:
        thing = document.door.thing
        raise BankError(thing, f"has format {found.shown}, not {FORMAT!r}", "Update EdgeMem")
    shape = _shape(document, metadata)
    if reason := shape.too_large():
        raise BankError(document.door.thing, reason, "Build the bank again with a smaller branch")
    expected = shape.tensors()
    if set(document.object()) - {"__metadata__"} != set(expected):
        document.refuse("lists other arrays than a level has")
    offsets = {n: document.field(n).field("data_offsets").list(2, 2)[0].count() for n in expected}
    begin, position = {}, 0
    for name in sorted(expected, key=lambda name: offsets[name]):
        code, sizes = expected[name]
        first, last = position, position + _nbytes(code, sizes)
        entry = document.field(name)
        told = [entry.field(k).plain for k in ("dtype", "shape", "data_offsets")]
        if told != [code, sizes, [first, last]]:
            entry.refuse("does not fit the other arrays")
        begin[name], position = start + first, last
    if start + position != size:
        thing, reason = document.door.thing, f"is {size} bytes long, not {start + position}"
        raise BankError(thing, reason, REMEDY)
    crc = metadata.field("index_crc")
    if not HEXADECIMAL.fullmatch(crc.text()):
        crc.refuse("is not eight hexadecimal digits")
    return LevelHeader(shape, begin, int(crc.text(), 16))


def _shape(document: Value, metadata: Value) -> LevelShape:
    codes = {code: storage for storage, code in STORAGES.items()}
    keys, blocks = document.field("keys").field("shape"), document.field("blocks")
    rows, key_length = (size.count(1) for size in keys.list(2, 2))
    elements = blocks.field("shape").list(2, 2)[1].count()
    number = _number(metadata.field("level"), 1, DEEPEST_LEVEL)
    branch = _number(metadata.field("branch"), 2, MOST_ROWS)
    storage = codes[blocks.field("dtype").choice(codes)]
    shape = LevelShape(number, branch, key_length, elements, storage)
    if shape.rows != rows or rows > MOST_ROWS:
        keys.refuse(f"with {rows} rows is not that of level {number} with {branch} children")
    return shape


def _number(value: Value, least: int, most: int) -> int:
    """A number that is written as text, as safetensors wants."""
    if not DECIMAL.fullmatch(text := value.text()) or not least <= int(text) <= most:
        value.refuse(f"is not a plain number from {least} to {most}")
    return int(text)


def _nbytes(code: str, sizes: list[int]) -> int:
    return math.prod(sizes) * np.dtype(DTYPES[code]).itemsize
