"""Class names from the command line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgemem.errors import InputError
from edgemem.files.untrusted import read_bounded
from edgemem.printable import shown

MOST_LABEL_BYTES = 1 << 22


def read_labels(text: str | None) -> tuple[str, ...] | None:
    """Class names from text: with commas, as a line of CSV, or the path of a .txt with one a line.

    Raises:
        InputError: a file that cannot be read, or an empty or repeated name.
    """
    if text is None:
        return None
    import csv

    try:
        if text.endswith(".txt"):
            content = read_bounded(Path(text), MOST_LABEL_BYTES)
            names = content.decode("utf-8-sig").splitlines()
        else:
            names = next(csv.reader([text], skipinitialspace=True), [])
    except (InputError, UnicodeDecodeError, csv.Error) as error:
        reason = error.reason if isinstance(error, InputError) else f"cannot be read ({error})"
        raise InputError(
            f"--labels {text}", reason, "Pass names with commas, or a text file in UTF-8"
        ) from error
    names = [name.strip() for name in names]
    while names and not names[-1] and text.endswith(".txt"):
        names.pop()  # empty lines at the end
    wrong = [name for name, count in Counter(names).items() if not name or count > 1]
    if wrong or not names:
        reason = f"names {shown(wrong[0])} twice" if wrong and wrong[0] else "holds an empty name"
        raise InputError(f"--labels {text}", reason, "Give every class a name of its own")
    return tuple(names)
