"""The command line. Device commands load neither torch nor onnx."""

from __future__ import annotations

import os
import sys

import typer

from edgemem.cli import bank, bank_ship, bank_state, device, train, train_prototypes, tune
from edgemem.cli.encoding import print_anywhere
from edgemem.errors import EdgeMemError, MissingExtraError

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
bank.add_to(app)
bank_ship.add_to(bank.bank_app)
bank_state.add_to(bank.bank_app)


def main() -> None:
    """Run the command line: exit code 2 for bad input, 1 for a missing extra."""
    print_anywhere()
    try:
        app()
    except MissingExtraError as error:
        print(f"edgemem: {error}", file=sys.stderr)
        sys.exit(1)
    except EdgeMemError as error:
        print(f"edgemem: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output is gone; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
