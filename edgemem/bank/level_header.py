"""The header of a level file: which arrays lie where, checked before anything relies on it.

A level file is plain safetensors. `docs/bank-format.md` describes it byte by byte.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemem.errors import BankError

FORMAT = "edgemem-level-1"
LONGEST_HEADER = 1 << 16
DEEPEST_LEVEL = 32
MOST_ROWS = 1 << 32
REMEDY = "Build the bank again or get a fresh copy"
DTYPES = {"I64": "<i8", "F32": "<f4", "F16": "<f2", "U32": "<u4", "I8": "|i1"}
STORAGES = {"float32": "F32", "float16": "F16", "int8": "I8"}
# What `index_crc` covers, in this order.
INDEX = ("parent", "count", "keys", "scale", "key_crc", "crc")


@dataclass(frozen=True)
class LevelShape:
    """What determines the size of a level file.

    number: 1 for the level below the root. branch: children of a node. key_length: numbers of a
    key. elements: numbers of a block. storage: float32, float16 or int8.
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
class Header:
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


def read_header(handle: int, thing: str) -> Header:
    """Read and check the header of an open level file.

    Raises:
        BankError: damaged, another format, or sizes that do not add up to the file's.
    """
    try:
        size = os.fstat(handle).st_size
        length = int.from_bytes(os.pread(handle, 8, 0), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise BankError(thing, "is not a level file", REMEDY)
        fields = json.loads(os.pread(handle, length, 8))
        return _checked(fields, 8 + length, size, thing)
    except OSError as error:
        raise BankError(thing, f"cannot be read ({error.strerror or error})", REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BankError(thing, f"has a damaged header ({error})", REMEDY) from error


def _checked(fields: Mapping[str, Any], start: int, size: int, thing: str) -> Header:
    metadata = fields["__metadata__"]
    if metadata["format"] != FORMAT:
        found = metadata["format"]
        raise BankError(thing, f"has format {found!r}, not {FORMAT!r}", "Update EdgeMem")
    shape = _shape(fields, metadata)
    expected = shape.tensors()
    if set(fields) - {"__metadata__"} != set(expected):
        raise ValueError("it lists other arrays than a level has")
    begin, position = {}, 0
    for name in sorted(expected, key=lambda name: fields[name]["data_offsets"]):
        code, sizes = expected[name]
        first, last = position, position + _nbytes(code, sizes)
        found = (fields[name]["dtype"], fields[name]["shape"], fields[name]["data_offsets"])
        if found != (code, sizes, [first, last]):
            raise ValueError(f"array {name!r} does not fit the others")
        begin[name], position = start + first, last
    if start + position != size:
        raise BankError(thing, f"is {size} bytes long, not {start + position}", REMEDY)
    index_crc = int(metadata["index_crc"], 16)
    if metadata["index_crc"] != f"{index_crc:08x}":
        raise ValueError("its index_crc is not eight hexadecimal digits")
    return Header(shape, begin, index_crc)


def _shape(fields: Mapping[str, Any], metadata: Mapping[str, str]) -> LevelShape:
    codes = {code: storage for storage, code in STORAGES.items()}
    rows, key_length = (_whole(value) for value in fields["keys"]["shape"])
    elements = _whole(fields["blocks"]["shape"][1])
    number, branch = int(metadata["level"]), int(metadata["branch"])
    if (metadata["level"], metadata["branch"]) != (str(number), str(branch)):
        raise ValueError("its metadata are not plain numbers")
    if not (1 <= number <= DEEPEST_LEVEL and 2 <= branch <= MOST_ROWS and key_length):
        raise ValueError(f"level {number} with {branch} children")
    shape = LevelShape(number, branch, key_length, elements, codes[fields["blocks"]["dtype"]])
    if shape.rows != rows or rows > MOST_ROWS:
        raise ValueError(f"{rows} rows at level {number} with {branch} children")
    return shape


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def _nbytes(code: str, sizes: list[int]) -> int:
    return math.prod(sizes) * np.dtype(DTYPES[code]).itemsize
