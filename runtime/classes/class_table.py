"""The classes of a runtime by number: the model's own, and those that it was taught."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from edgemem.block import Array
from edgemem.bundle.manifest import Manifest
from edgemem.errors import InputError, StateError

TABLE = "classes.table"  # the array of a snapshot
LONGEST_NAME = 128
MOST_FRAMES = 1 << 53  # whole numbers up to here are exact in every language, JSON included
Label = int | str


@dataclass(frozen=True)
class ClassInfo:
    """A class that a runtime predicts.

    Attributes:
        index: its number in `result.labels`, and its column in `result.logits`.
        frames: how many labelled ones of it were given.
        own: whether it is one of the model's.
    """

    index: int
    name: str
    frames: int
    own: bool


@dataclass(frozen=True)
class ClassTable:
    """Which classes are open, by number; a value, so that whoever changes one gets another.

    Attributes:
        own: the model's classes, which are the first.
        capacity: classes there is room for.
        names: by number, the own ones included.
        frames: labelled ones by number, none where there were none.
        taught: arrays of the block that labelled frames have changed.
    """

    own: tuple[str, ...]
    capacity: int
    names: Mapping[int, str]
    frames: Mapping[int, int] = field(default_factory=dict)
    taught: tuple[str, ...] = ()

    def listed(self) -> tuple[ClassInfo, ...]:
        """All open classes by number."""
        own = len(self.own)
        return tuple(
            ClassInfo(number, self.names[number], self.frames.get(number, 0), number < own)
            for number in sorted(self.names)
        )

    def number(self, label: Label) -> int:
        """The number of an open class, by its name or number.

        Raises:
            InputError: there is none, or several have that name.
        """
        found = [n for n, name in self.names.items() if label in (n, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"class {label!r}", "is the name of several", "Pass its number")
        raise InputError(f"class {label!r}", "is unknown", "runtime.classes() lists all")

    def opened(self, labels: Iterable[Label]) -> tuple[ClassTable, list[int]]:
        """The table in which every label has a class, and the number of each.

        Numbers that are not taken yet are opened first, under their digits; then names, each at
        the lowest number that is free.

        Raises:
            InputError: a number or name that cannot be opened, or more classes than there is
                room for.
        """
        labels, names = list(labels), dict(self.names)
        for label in labels:
            if isinstance(label, int) and label not in names:
                self._require_new(str(label), names)
                names[self._in_range(label)] = str(label)
        known = set(names.values())
        new = [x for x in dict.fromkeys(labels) if isinstance(x, str) and x not in known]
        free = [number for number in range(self.capacity) if number not in names]
        if len(new) > len(free):
            raise self._full(len(new), len(names))
        for name in new:
            checked_name(name)
        names |= dict(zip(free, new, strict=False))
        table = replace(self, names=names)
        return table, [table.number(label) for label in labels]

    def given(self, numbers: Iterable[int], arrays: Collection[str]) -> ClassTable:
        """With one more labelled frame for each of these numbers, which changed these arrays."""
        frames = dict(self.frames)
        for number in numbers:
            frames[number] = min(frames.get(number, 0) + 1, MOST_FRAMES)
        return replace(self, frames=frames, taught=tuple(sorted({*self.taught, *arrays})))

    def forgotten(self, number: int) -> ClassTable:
        """Without what was taught of a class; the model's own stay, under their names.

        Raises:
            InputError: nothing was taught of a class of the model.
        """
        own = number < len(self.own)
        if own and not self.frames.get(number):
            raise InputError(
                f"class {self.names[number]!r}",
                "is one of the model's own, and nothing was taught of it",
                "Only what was taught can be forgotten",
            )
        names = {n: name for n, name in self.names.items() if own or n != number}
        frames = {n: frames for n, frames in self.frames.items() if n != number}
        return replace(self, names=names, frames=frames)

    def renamed(self, number: int, name: str) -> ClassTable:
        """With another name for a class.

        Raises:
            InputError: no name, or that of another class.
        """
        if self.names[number] == checked_name(name):
            return self
        self._require_new(name, self.names)
        return replace(self, names={**self.names, number: name})

    def covering(self, rows: Array) -> ClassTable:
        """With a name for each class that a block knows and the table does not.

        Blocks that were imported come without names. rows: of an array [capacity, ...], zero where
        not taught.
        """
        names = dict(self.names)
        for number in np.flatnonzero(rows.reshape(len(rows), -1).any(1)).tolist():
            if number not in names:
                taken, first = set(names.values()), f"class-{number}"
                more = (f"{first}-{again}" for again in count(2))
                names[number] = (
                    first if first not in taken else next(n for n in more if n not in taken)
                )
        return self if len(names) == len(self.names) else replace(self, names=names)

    def to_array(self) -> Array:
        """For the snapshot: JSON in UTF-8, as uint8 [bytes]."""
        classes = [[n, name, self.frames.get(n, 0)] for n, name in sorted(self.names.items())]
        text = json.dumps({"classes": classes, "taught": self.taught})
        return np.frombuffer(text.encode(), np.uint8)

    def _in_range(self, number: int) -> int:
        if not 0 <= number < self.capacity:
            raise InputError(
                f"label {number}",
                f"is not one of the {self.capacity} classes that this bundle has room for",
                f"Pass a name, or a number from 0 to {self.capacity - 1}",
            )
        return number

    def _require_new(self, name: str, names: Mapping[int, str]) -> None:
        other = next((number for number, taken in names.items() if taken == name), None)
        if other is not None:
            raise InputError(
                f"class {name!r}", f"is already number {other}", "Use another name, or that number"
            )

    def _full(self, new: int, taken: int) -> InputError:
        return InputError(
            f"new classes ({new})",
            f"do not fit: {taken} of {self.capacity} are taken",
            "Forget some with runtime.forget_class, or export with a larger --max-classes",
        )


def own_classes(manifest: Manifest) -> ClassTable:
    """The table of a bundle that was taught nothing."""
    return ClassTable(manifest.labels, manifest.classes, dict(enumerate(manifest.labels)))


def table_of(array: Array | None, manifest: Manifest, path: str) -> ClassTable:
    """The table that a snapshot holds; that of the bundle where it holds none.

    Raises:
        StateError: it is damaged, or of another bundle.
    """
    table = own_classes(manifest)
    if array is None:
        return table
    try:
        if array.dtype != np.uint8 or array.ndim != 1:
            raise ValueError("not a line of bytes")
        return _parsed(json.loads(array.tobytes()), table, manifest)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(
            path,
            f"holds a table of classes that does not fit the bundle ({error})",
            "Delete the state file and the files beside it to start again",
        ) from error


def checked_name(name: object) -> str:
    """A name that a class may have.

    Raises:
        InputError: it may not.
    """
    if not isinstance(name, str):
        raise InputError(
            f"class name {name!r}", f"is a {type(name).__name__}", "Pass text as a name"
        )
    if not _is_name(name):
        raise InputError(
            f"class name {name[:LONGEST_NAME]!r}",
            "is empty, longer than 128 characters, or not printable",
            "Use a short name",
        )
    return str(name)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and not name.isspace()


def _parsed(document: Any, table: ClassTable, manifest: Manifest) -> ClassTable:
    classes, taught = document["classes"], document["taught"]
    names, frames = dict[int, str](), dict[int, int]()
    for number, name, given in classes:
        if type(number) is not int or not 0 <= number < table.capacity or number in names:
            raise ValueError(f"number {number!r}")
        if type(given) is not int or not 0 <= given <= MOST_FRAMES:
            raise ValueError(f"{given!r} frames of class {number}")
        # Labels of a model may be of any kind, and occur twice.
        own = number < len(table.own) and name == table.own[number]
        if type(name) is not str or not (own or (_is_name(name) and name not in names.values())):
            raise ValueError(f"name of class {number}")
        names[number] = name
        if given:
            frames[number] = given
    if missing := [number for number in range(len(table.own)) if number not in names]:
        raise ValueError(f"no class {missing[0]}")
    known = manifest.teaching.arrays if manifest.teaching is not None else ()
    if not isinstance(taught, list) or any(name not in known for name in taught):
        raise ValueError("unknown arrays")
    return replace(table, names=names, frames=frames, taught=tuple(taught))
