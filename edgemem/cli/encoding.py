"""Text for terminals that cannot show every character: never an error, plain signs instead."""

from __future__ import annotations

import codecs
import sys
from io import TextIOWrapper

HANDLER = "edgemem.plain"
PLAIN = {
    "–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "╸": "-", "╺": "-", "│": "|", "…": "...",
    "→": "->", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "µ": "u", "•": "*", "’": "'", "“": '"',
    "”": '"',
}  # fmt: skip


def print_anywhere() -> None:
    """Let standard output and error write what their encoding lacks in plain signs."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """The handler: known signs by the table, bytes of file names as they are, others as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a name that is not text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return PLAIN.get(character, "?"), error.start + 1
