"""The command line. Device commands load neither torch nor onnx."""

from __future__ import annotations

import sys

import typer

from edgemem.cli.commands import (
    bank_levels,
    bank_ship,
    bank_state,
    device,
    train,
    train_prototypes,
    tune,
)
from edgemem.cli.encoding import print_anywhere
from edgemem.cli.language_commands import generate, train_language
from edgemem.cli.output import (
    UnprintableError,
    complain,
    give_up_output,
    open_missing_streams,
    printing,
)
from edgemem.errors import EdgeMemError, InputError, MissingExtraError

app = typer.Typer(
    name="edgemem",
    help="Models that keep adapting on the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
device.add_to(app)
train.add_to(app)
train_prototypes.add_to(app)
tune.add_to(app)
train_language.add_to(app)
generate.add_to(app)
bank_levels.add_to(app)
bank_ship.add_to(bank_levels.bank_app)
bank_state.add_to(bank_levels.bank_app)


def main() -> None:
    """Run the command line.

    Exit code 2: refused. 1: an extra is missing, or all is done but cannot be printed.
    """
    open_missing_streams()
    print_anywhere()
    sys.exit(_run())


def _run() -> int | str | None:
    """The exit code; what went wrong is printed."""
    try:
        if any("\0" in word for word in sys.argv):  # by whoever calls this in their own process
            raise InputError("an argument", "holds a zero character", "Leave it out")
        app()
    except SystemExit as end:
        return end.code or _flushed()
    except (EdgeMemError, OSError, MemoryError) as error:
        nameless = isinstance(error, OSError) and error.filename is None
        return (_flushed() if nameless else 0) or _told(error)
    return _flushed()


def _flushed() -> int:
    """Write what is still held back, such as a page of help; the exit code, 0 if all is written."""
    try:
        with printing():
            pass
    except UnprintableError as error:
        return _told(error)
    return 0


def _told(error: EdgeMemError | OSError | MemoryError) -> int:
    """Print an error in one line; the exit code."""
    if isinstance(error, UnprintableError):
        give_up_output()
        if not error.broken:
            complain(f"edgemem: {error}")
        return 1
    if isinstance(error, MemoryError):
        reason = f"needs more memory than there is ({error or 'out of memory'})"
        error = InputError(
            "this command", reason, "Use smaller files, or smaller values of options"
        )
    elif isinstance(error, OSError):
        reason = f"cannot be read or written ({error.strerror or error})"
        thing = str(error.filename or "a file")
        error = InputError(thing, reason, "Check the path, its permissions and the space there")
    complain(f"edgemem: {error}")
    return 1 if isinstance(error, MissingExtraError) else 2
