"""Which tensors of an ONNX graph lie outside of it, read without the onnx package.

An engine that is given a path follows whatever the graph names: some versions of onnxruntime read
`../x` and absolute paths. So the graph is looked through first, and only constants of the whole
graph may lie outside, all in one file that the manifest lists. Anything else is refused.

The format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from edgemem.errors import BundleError

REMEDY = "Export the bundle again or get a fresh copy"
MOST_DIMENSIONS = 16
DEEPEST = 64  # graphs within graphs, counted in messages
VARINT, EIGHT, TEXT, FOUR = 0, 1, 2, 5  # how a field is written
SIZES = {EIGHT: 8, FOUR: 4}
# A tensor whose content is elsewhere holds this key as text, so messages without it need no look.
KEY = b"location"

# Fields of messages, by number: the message that they hold.
MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR = "model", "graph", "node", "attribute", "tensor"
SPARSE, FUNCTION, TRAINING = "sparse tensor", "function", "training"
WITHIN: dict[str, dict[int, str]] = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TRAINING: {1: GRAPH, 2: GRAPH},
    TENSOR: {},
}
INITIALIZER = (MODEL, GRAPH, TENSOR)  # the only way to a tensor that may lie outside
NUMPY = {
    1: "<f4", 2: "|u1", 3: "|i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "|b1", 10: "<f2",
    11: "<f8", 12: "<u4", 13: "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class ExternalTensor:
    """A constant of a graph whose values lie in a file: where, and what they are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    offset: int


def external_tensors(content: bytes, thing: str) -> list[ExternalTensor]:
    """The constants of an ONNX model that lie outside of it.

    Raises:
        BundleError: no ONNX model, or something lies outside in a way that is not allowed.
    """
    found = _Look(thing)
    found.at(content, MODEL, (MODEL,))
    return found.tensors


@dataclass
class _Look:
    thing: str
    tensors: list[ExternalTensor] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def at(self, content: bytes, kind: str, way: tuple[str, ...]) -> None:
        """Look through a message; way: the messages that it lies in, itself the last."""
        if len(way) > DEEPEST:
            self.refuse(f"has more than {DEEPEST} messages within each other")
        if kind == TENSOR:
            self._tensor(content, way)
            return
        seen = set[int]()
        for number, value in self._fields(content):
            inner = WITHIN[kind].get(number)
            if inner is None:
                continue
            if kind == MODEL and number in seen and inner == GRAPH:
                self.refuse("has two graphs")  # readers would merge them
            seen.add(number)
            if not isinstance(value, bytes):
                self.refuse(f"is damaged ({kind}, field {number})")
            if kind == MODEL or KEY in value:
                self.at(value, inner, (*way, inner))

    def _tensor(self, content: bytes, way: tuple[str, ...]) -> None:
        name, code, outside = "", 0, False
        sizes, where = list[int](), dict[str, str]()
        for number, value in self._fields(content):
            if number == 1:
                sizes += [value] if isinstance(value, int) else self._varints(value)
            elif number == 2 and isinstance(value, int):
                code = value
            elif number == 8 and isinstance(value, bytes):
                name = self._text(value)
            elif number == 13 and isinstance(value, bytes):
                pair = dict(self._fields(value))
                where[self._text(pair.get(1, b""))] = self._text(pair.get(2, b""))
            elif number == 14:
                outside = value == 1
        if not where and not outside:
            return
        if way != INITIALIZER:
            self.refuse(f"keeps values of a {way[-2]} outside of itself")
        if name in self.names:
            self.refuse(f"has two constants named {name[:60]!r}")
        self.names.add(name)
        self.tensors.append(self._checked(name, code, tuple(sizes), where))

    def _checked(
        self, name: str, code: int, shape: tuple[int, ...], where: dict[str, str]
    ) -> ExternalTensor:
        if code not in NUMPY or not name or "location" not in where:
            self.refuse(f"keeps {name[:60]!r}, of type {code}, outside of itself")
        if len(shape) > MOST_DIMENSIONS:
            self.refuse(f"has a constant of {len(shape)} dimensions")
        offset, length = where.get("offset", "0"), where.get("length", "0")
        if not (offset.isascii() and offset.isdecimal() and len(offset) < 16):
            self.refuse(f"keeps {name!r} at {offset[:20]!r}")
        size = math.prod(shape) * int(NUMPY[code][2:])
        if "length" in where and length != str(size):
            self.refuse(f"says that {name!r} takes {length[:20]} bytes, its shape {size}")
        return ExternalTensor(name, NUMPY[code], shape, where["location"], int(offset))

    def _fields(self, content: bytes) -> Iterator[tuple[int, int | bytes]]:
        """Number and value of every field of a message."""
        place, end = 0, len(content)
        while place < end:
            tag, place = self._varint(content, place)
            number, how = tag >> 3, tag & 7
            if how == VARINT:
                value, place = self._varint(content, place)
                yield number, value
                continue
            if how == TEXT:
                size, place = self._varint(content, place)
            elif how in SIZES:
                size = SIZES[how]
            else:
                self.refuse(f"is damaged (a field of kind {how})")
            if place + size > end:
                self.refuse("ends early")
            yield number, content[place : place + size]
            place += size

    def _varint(self, content: bytes, place: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if place >= len(content) or shift > 63:
                self.refuse("is damaged (a number without end)")
            byte = content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
            shift += 7

    def _varints(self, content: bytes) -> list[int]:
        found, place = list[int](), 0
        while place < len(content):
            value, place = self._varint(content, place)
            found.append(value)
        return found

    def _text(self, value: int | bytes) -> str:
        if isinstance(value, int):
            self.refuse("is damaged (a number in the place of text)")
        try:
            return value.decode()
        except UnicodeDecodeError:
            self.refuse("is damaged (text that is none)")

    def refuse(self, reason: str) -> NoReturn:
        raise BundleError(self.thing, reason, REMEDY)
