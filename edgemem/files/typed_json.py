"""JSON that was written by others: bounded, then read value by value, each by its type.

Whatever is wrong becomes the one error of the file it is in, and names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from edgemem.errors import EdgeMemError

MOST_BYTES = 1 << 20
DEEPEST = 32  # objects and lists within each other
MOST_ENTRIES = 1 << 16  # of one object or list
LONGEST_TEXT = 1024
LARGEST_COUNT = (1 << 48) - 1  # that of bytes, frames or rows is never larger
LONGEST_NUMBER = 40  # characters; a number of Python has no end, and takes longer the longer it is
LARGEST_SINGLE = (2 - 2**-23) * 2.0**127
SHOWN = 60  # characters of a wrong value
HALVES = re.compile("[\ud800-\udfff]")  # of characters; they cannot be written in UTF-8
# Text, which may not end, so that no place is looked at twice; or a bracket.
BRACKETS = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{\]}]', re.DOTALL)


def read_json(
    content: bytes,
    thing: str,
    error: type[EdgeMemError],
    remedy: str,
    *,
    most_bytes: int = MOST_BYTES,
) -> Value:
    """The value of a document in UTF-8.

    Refused beside what is not JSON: more than `most_bytes`, lists and objects that are more than 32
    deep, a key twice in one object, NaN, infinities, and numbers of more than 40 characters.

    Args:
        content: all bytes of the document.
        thing: name of the document, for errors.
        error: what is raised, here and by the values.
        remedy: what to do about it.
        most_bytes: that a document may have.

    Raises:
        error: the document is refused.
    """
    if len(content) > most_bytes:
        raise error(thing, f"is too large for what it is ({len(content):,} bytes)", remedy)
    try:
        text = content.decode()
        _refuse_deep(text)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as cause:
        raise error(thing, f"is not JSON ({_shortened(str(cause))})", remedy) from cause
    return Value(value, "", _Opening(thing, error, remedy))


@dataclass(frozen=True)
class _Opening:
    """What a document is called, and the error that is raised about it."""

    thing: str
    error: type[EdgeMemError]
    remedy: str


@dataclass(frozen=True)
class Value:
    """One value of a document. plain: as Python has it. path: where it is, such as `plans[0].name`.

    Every method raises the error of the document if the value is not what was asked for.
    """

    plain: Any
    path: str
    door: _Opening

    def field(self, name: str) -> Value:
        """The value of that key of an object; it has to be there."""
        place = f"{self.path}.{name}".lstrip(".")
        if not isinstance(self.plain, dict):
            self.refuse("is not an object")
        if name not in self.plain:
            raise self.door.error(
                self.door.thing, f"lacks the field {_shortened(place)!r}", self.door.remedy
            )
        return Value(self.plain[name], place, self.door)

    def object(self, most: int = MOST_ENTRIES) -> dict[str, Value]:
        """Every value of an object by its key."""
        if not isinstance(self.plain, dict):
            self.refuse("is not an object")
        self._bounded(0, most)
        for key in self.plain:
            Value(key, f"{self.path}, key", self.door).text()
        return {key: self.field(key) for key in self.plain}

    def list(self, most: int = MOST_ENTRIES, least: int = 0) -> list[Value]:
        """Every value of a list."""
        if not isinstance(self.plain, list):
            self.refuse("is not a list")
        self._bounded(least, most)
        return [Value(v, f"{self.path}[{k}]", self.door) for k, v in enumerate(self.plain)]

    def text(self, longest: int = LONGEST_TEXT) -> str:
        """Text that can be written in UTF-8."""
        if not isinstance(self.plain, str):
            self.refuse("is not text")
        if len(self.plain) > longest:
            self.refuse(f"is longer than {longest} characters")
        if HALVES.search(self.plain):
            self.refuse("holds half a character")
        return self.plain

    def choice(self, options: Collection[str]) -> str:
        """One of a few texts."""
        if (found := self.text()) not in options:
            self.refuse(f"is none of {', '.join(options)}")
        return found

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.plain, bool):
            self.refuse("is neither true nor false")
        return self.plain

    def count(self, least: int = 0, most: int = LARGEST_COUNT) -> int:
        """A whole number from `least` to `most`, written as one."""
        if type(self.plain) is not int or not least <= self.plain <= most:
            self.refuse(f"is not a count from {least} to {most}")
        return self.plain

    def finite(self) -> float:
        """A number."""
        if type(self.plain) not in {int, float}:
            self.refuse("is not a number")
        return float(self.plain)

    def single(self) -> float:
        """A number that float32 has room for."""
        if abs(found := self.finite()) > LARGEST_SINGLE:
            self.refuse("is too large for float32")
        return found

    def positive(self) -> float:
        """A number above zero."""
        if (found := self.finite()) <= 0:
            self.refuse("is not above zero")
        return found

    def share(self) -> float:
        """A number from 0 to 1."""
        if not 0 <= (found := self.finite()) <= 1:
            self.refuse("is not within 0 to 1")
        return found

    @property
    def shown(self) -> str:
        """The value, short enough for a message."""
        if isinstance(self.plain, dict | list):
            return "an object" if isinstance(self.plain, dict) else "a list"
        return _shortened(ascii(self.plain))

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error of the document about this value; the reason goes on from it."""
        place = f"field {_shortened(self.path)}" if self.path else "the whole"
        raise self.door.error(
            self.door.thing, f"has a wrong value ({place}: {self.shown} {reason})", self.door.remedy
        )

    def _bounded(self, least: int, most: int) -> None:
        if not least <= len(self.plain) <= most:
            self.refuse(f"has {len(self.plain):,} entries, not {least} to {most:,}")


def _refuse_deep(text: str) -> None:
    """Python's own limit is for whole programs, and some raise it until the stack ends."""
    depth = 0
    for found in BRACKETS.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"more than {DEEPEST} lists and objects within each other")
        elif found[0] in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def _whole(digits: str) -> int:
    _refuse_long(digits)
    return int(digits)


def _fraction(digits: str) -> float:
    _refuse_long(digits)
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large for a number")
    return number


def _refuse_long(digits: str) -> None:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} characters")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
