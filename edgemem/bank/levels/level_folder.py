"""The levels that lie in a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_header import REMEDY
from edgemem.errors import BankError

NAME = re.compile(r"level-([1-9][0-9]{0,3})\.safetensors", re.ASCII)
IN_BUNDLE = "bank"  # the folder of the levels in a bundle


def open_levels(
    folder: Path, elements: int | Sequence[int] | None = None, key_length: int | None = None
) -> list[Level]:
    """Every level of a folder, level 1 first.

    Args:
        folder: of the levels.
        elements: numbers of a block; one number for all levels, or one for each.
        key_length: numbers of a key.

    Raises:
        BankError: no level 1, a gap, or levels that do not fit each other, `elements` or
            `key_length`.
    """
    numbers = level_numbers(folder)
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        missing = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
        raise BankError(str(folder), f"has no level-{missing}.safetensors", REMEDY)
    sizes = [elements] * len(numbers) if elements is None or isinstance(elements, int) else elements
    if len(sizes) != len(numbers):
        reason = f"has {len(numbers)} levels, not {len(sizes)}"
        raise BankError(str(folder), reason, "Use the bank of this bundle")
    levels: list[Level] = []
    try:
        for number, size in zip(numbers, sizes, strict=True):
            length = levels[0].shape.key_length if levels else key_length
            path = level_path(folder, number)
            levels.append(Level(path, elements=size, key_length=length))
            found = levels[-1].shape
            if (found.number, found.branch) != (number, levels[0].shape.branch):
                found_text = f"is level {found.number} of a tree with branch {found.branch}"
                raise BankError(str(path), found_text, REMEDY)
    except BaseException:
        for level in levels:
            level.close()
        raise
    return levels


def level_path(folder: Path, number: int) -> Path:
    """Where a level lies."""
    return folder / f"level-{number}.safetensors"


def level_folder(place: Path) -> Path:
    """The folder of the levels of a bank, or of a bundle."""
    return place / IN_BUNDLE if (place / "manifest.json").is_file() else place


def is_level(name: str) -> bool:
    """Whether a file of a bundle, named as in its manifest, is a level of its bank."""
    folder, _, file = name.partition("/")
    return folder == IN_BUNDLE and NAME.fullmatch(file) is not None


def level_numbers(folder: Path) -> list[int]:
    """Numbers of the levels in a folder, in order."""
    found = (NAME.fullmatch(path.name) for path in folder.glob("level-*"))
    return sorted(int(match[1]) for match in found if match)
