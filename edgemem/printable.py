"""Text from outside, made harmless to show: nothing in it moves a cursor or reorders a line.

Labels, names of contexts and paths come from files that others wrote. All text for people passes
through here: tables, lines, pictures, logs and the messages of errors.
"""

from __future__ import annotations

# Joiners are part of how some languages are written, and change no order.
HARMLESS = "\u200c\u200d"
LONGEST = 60  # of a value in a message


def printable(text: str) -> str:
    r"""Text in which every character that a terminal might act on is spelled out, such as \x1b.

    Those are control characters, ends of lines, marks of direction and what is no character at all.
    Letters of every language, signs and spaces stay. Applied twice, it changes nothing more.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def shown(value: object) -> str:
    """A value as Python writes it, for the message of an error.

    Harmless, and no longer than that.
    """
    try:
        text = printable(repr(value))
    except Exception:  # noqa: BLE001 - whatever a value does when it is asked for its text
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _spelled(character: str) -> str:
    import unicodedata

    if character in HARMLESS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
