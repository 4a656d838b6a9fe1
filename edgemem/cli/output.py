"""Where commands write: always something to write to, and one line where that fails.

What a command did is done when it prints. That nobody can read it is told, but undoes nothing.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edgemem.errors import EdgeMemError
from edgemem.printable import printable


class UnprintableError(EdgeMemError):
    """Standard output cannot be written. broken: its reader is gone, which is no fault."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(
            "standard output",
            f"cannot be written ({cause.strerror or cause}); the command itself is done",
            "Send it to a terminal, or to a file where there is space",
        )
        self.broken = cause.errno == errno.EPIPE


def open_missing_streams() -> None:
    """Open what was closed before the start, so that no other file gets its number.

    Nothing can be written to the standard output that is opened here: whoever closed it is told.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, mode)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


@contextmanager
def printing() -> Iterator[None]:
    """Write all that is printed inside; what fails is told as an `UnprintableError`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise UnprintableError(error) from error


def say(*lines: str) -> None:
    """Lines on standard output, each harmless, whatever names are in it.

    Raises:
        UnprintableError: standard output cannot be written.
    """
    with printing():
        for line in lines:
            print(printable(line))


def complain(line: str) -> None:
    """One harmless line on standard error, if that can be written."""
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def give_up_output() -> None:
    """Drop what could not be printed, so that Python does not try again at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
