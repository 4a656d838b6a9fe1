"""Documents, cut into windows of as many tokens as memories are trained on at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemem.errors import InputError, MissingExtraError
from edgemem.files.untrusted import read_bounded

ENDINGS = (".txt", ".md")
MOST_BYTES = 1 << 30  # of one document
LEAST_TOKENS = 2  # of a window: one that is given, and one that follows


@dataclass(frozen=True)
class Window:
    """A piece of a document. ids: its tokens, as a device reads them."""

    document: str
    text: str
    ids: tuple[int, ...]


def read_windows(place: Path, tokenizer: Path, length: int) -> list[Window]:
    """Windows of a document, or of all .txt and .md below a folder, in the order of their names.

    Args:
        place: a file, or a folder.
        tokenizer: file of the anchor.
        length: tokens of a window; those that the tokenizer adds to a text come on top.

    Raises:
        InputError: no documents, no text in them, or text that is not UTF-8.
        MissingExtraError: the library tokenizers is not installed.
    """
    if length < LEAST_TOKENS:
        raise InputError(f"windows of {length} tokens", "teach nothing", "Use 2 or more")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("tokenizers", "lm") from error
    reader: Any = Tokenizer.from_file(str(tokenizer))
    reader.no_truncation()
    reader.no_padding()
    found = [
        window for path in _files(place) for window in _windows(path, _text(path), reader, length)
    ]
    if not found:
        raise InputError(str(place), "holds no text", "Pass documents with some text in them")
    return found


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        found = [path for path in place.rglob("*") if path.suffix.lower() in ENDINGS]
        if not found:
            reason = f"holds no documents ({' or '.join(ENDINGS)})"
            raise InputError(str(place), reason, "Pass a folder of texts, or one text")
        return sorted(found)
    return [place]


def _text(path: Path) -> str:
    try:
        return read_bounded(path, MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        place = f"at byte {error.start:,}"
        raise InputError(str(path), f"is not UTF-8 ({place})", "Save it as UTF-8") from error


def _windows(path: Path, text: str, reader: Any, length: int) -> list[Window]:
    spans = reader.encode(text, add_special_tokens=False).offsets
    found = []
    for first in range(0, len(spans), length):
        last = min(first + length, len(spans)) - 1
        part = text[spans[first][0] : spans[last][1]]
        ids = tuple(reader.encode(part).ids)
        if part.strip() and len(ids) >= LEAST_TOKENS:
            found.append(Window(path.name, part, ids))
    return found
