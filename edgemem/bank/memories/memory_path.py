"""Paths of memories: rows of the levels from the first on, as text "3/51"."""

from __future__ import annotations

import re
from collections.abc import Collection

from edgemem.errors import InputError
from edgemem.printable import shown

MemoryPath = tuple[int, ...]
TEXT = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:/(?:0|[1-9][0-9]{0,9})){0,31}", re.ASCII)


def read_path(text: str) -> MemoryPath:
    """The rows of a path such as "3/51".

    Raises:
        InputError: it is none.
    """
    if not isinstance(text, str) or not TEXT.fullmatch(text):
        raise InputError(
            f"block {shown(text)}", "is no path", "Write rows from level 1 on, such as 3/51"
        )
    return tuple(int(row) for row in text.split("/"))


def shown_path(path: MemoryPath) -> str:
    """A path as text."""
    return "/".join(map(str, path))


def cut(path: MemoryPath, deny: Collection[MemoryPath]) -> MemoryPath:
    """The path up to where it enters a denied node."""
    for length in range(1, len(path) + 1):
        if path[:length] in deny:
            return path[: length - 1]
    return path
