"""Commands for the blocks that a device wrote: blocks, compact, forget, rollback, export, import.

The state file names the bundle it belongs to, so no bundle is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemem.cli.output import complain, say
from edgemem.cli.show import print_json, print_table

if TYPE_CHECKING:
    from edgemem.bank.written.record import Record
    from edgemem.state.store import State

StatePath = Annotated[Path, typer.Argument(metavar="STATE", help="State file of a runtime.")]
BlockId = Annotated[
    str, typer.Argument(metavar="ID", help="Block, as edgemem bank blocks names it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def add_to(bank_app: typer.Typer) -> None:
    """Register the commands."""
    for command in (blocks, compact, forget, rollback):
        bank_app.command()(command)
    bank_app.command("export")(export_)
    bank_app.command("import")(import_)


def blocks(state: StatePath, json: Json = False) -> None:
    """List the blocks that the device wrote, after checking every version of each.

    Example: edgemem bank blocks camera.db
    """
    from edgemem.bank.written.written_blocks import WrittenBlocks

    with _opened(state, read_only=True) as opened:
        written = WrittenBlocks(opened)
        listing, damage = written.listing(), written.verify()
        identity = opened.bundle_identity
    if json:
        found = [record.as_dict() for record in listing.records]
        print_json({"bundle": identity, "blocks": found, "damage": [str(e) for e in damage]})
    else:
        _print_blocks(state, listing.records)
    for error in damage:
        complain(f"edgemem: {error}")
    if damage:
        raise typer.Exit(2)


def compact(state: StatePath, json: Json = False) -> None:
    """Give the space of deleted blocks back to the disk.

    Example: edgemem bank compact camera.db
    """
    from edgemem.bank.written.written_blocks import WrittenBlocks

    with _opened(state) as opened:
        given = WrittenBlocks(opened).compact()
    if json:
        print_json({"state": str(state), "bytes": given})
    else:
        say(f"{state}: {given:,} bytes given back.")


def forget(state: StatePath, block: BlockId, json: Json = False) -> None:
    """Delete every version of a block, and its bytes from the file.

    Example: edgemem bank forget camera.db night
    """
    from edgemem.bank.written.written_blocks import WrittenBlocks

    with _opened(state) as opened:
        WrittenBlocks(opened).forget(block)
    if json:
        print_json({"state": str(state), "forgotten": block})
    else:
        say(f"{state}: block {block!r} is forgotten. Exports and backups may still hold it.")


def rollback(state: StatePath, block: BlockId, json: Json = False) -> None:
    """Go back to the version before; it becomes the newest. Repeat to go further back.

    Example: edgemem bank rollback camera.db night
    """
    from edgemem.bank.written.written_blocks import WrittenBlocks

    with _opened(state) as opened:
        record = WrittenBlocks(opened).rollback(block)
    if json:
        print_json(record.as_dict())
    else:
        say(f"{state}: block {block!r} is now version {record.version}, {record.provenance.why}.")


def export_(
    state: StatePath,
    out: Annotated[Path, typer.Option(help="File to write, such as blocks.safetensors.")],
    id: Annotated[list[str] | None, typer.Option(help="Block; repeatable; default all.")] = None,
    json: Json = False,
) -> None:
    """Copy blocks, with where they come from, into a file for another device.

    Example: edgemem bank export camera.db --out blocks.safetensors
    """
    from edgemem.bank.written.transfer import export_blocks

    with _opened(state, read_only=True) as opened:
        records = export_blocks(opened, out, id)
    if json:
        print_json({"out": str(out), "blocks": [record.as_dict() for record in records]})
    else:
        say(f"{out}: {_blocks(len(records))}. Next: edgemem bank import OTHER_STATE {out}")


def import_(
    state: StatePath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written by edgemem bank export.")],
    json: Json = False,
) -> None:
    """Take blocks of another device that are newer than the state's own.

    Both devices must run the same bundle. A missing state file is made.

    Example: edgemem bank import camera.db blocks.safetensors
    """
    from edgemem.bank.written.transfer import bundle_of, import_blocks

    with _opened(state, bundle_of(file)) as opened:
        found = import_blocks(opened, file)
    if json:
        print_json({"state": str(state), "taken": found.taken, "kept": found.kept})
    else:
        say(f"{state}: {_blocks(len(found.taken))} taken, {len(found.kept)} as new here already.")


@contextmanager
def _opened(path: Path, identity: str | None = None, *, read_only: bool = False) -> Iterator[State]:
    from edgemem.state.store import State

    state = State(path, identity, read_only=read_only)
    try:
        yield state
    finally:
        state.close()


def _print_blocks(state: Path, records: Sequence[Record]) -> None:
    rows = [
        (
            record.id,
            record.path or "root",
            str(record.version),
            f"{record.count:,}",
            f"{record.nbytes:,}",
            record.provenance.why,
        )
        for record in records
    ]
    size = sum(record.nbytes for record in records)
    columns = ("id", "path", "version", "count", "bytes", "why")
    print_table(
        f"{state.name}: {_blocks(len(records))} written here, {size:,} bytes", columns, rows
    )


def _blocks(number: int) -> str:
    return f"{number:,} block" if number == 1 else f"{number:,} blocks"
