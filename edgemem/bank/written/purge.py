"""Taking something out of all written blocks of a state file, and out of their history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgemem.bank.written.block_table import REMEDY, BlockTable
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.block import Block, unpack
from edgemem.errors import StateError
from edgemem.state.store import State


def purge(state: State, cleared: Callable[[Block], Block], why: str) -> None:
    """Write blocks again without what is to go, and delete the earlier versions that hold it.

    What the disk itself, a backup or an export keeps is out of reach; `state.scrub` empties the
    log.

    Args:
        state: the open state file.
        cleared: a block without it; the same one where it holds nothing of it.
        why: for the provenance of what is written.

    Raises:
        StateError: a block is damaged, so that nobody knows what it holds; nothing has changed.
    """
    written, table = WrittenBlocks(state), BlockTable(state)
    with state.transaction():
        listing = written.listing()
        if listing.damage:
            raise listing.damage[0]
        for record in listing.records:
            block = Block(written.read(record.id)[1])
            if (left := cleared(block)) is not block:
                written.put(
                    record.id,
                    left,
                    path=record.path,
                    key=record.key,
                    count=record.count,
                    provenance=replace(record.provenance, why=why),
                )
            earlier = table.known(record.id)[1:]
            table.delete(record.id, [v for v in earlier if _holds(table, record.id, v, cleared)])


def _holds(
    table: BlockTable, name: str, version: object, cleared: Callable[[Block], Block]
) -> bool:
    """Whether a version has to go: it holds what shall, or nobody can tell."""
    try:
        _, payload = table.read(name, version)
        block = Block(unpack(payload, name, StateError, REMEDY))
    except StateError:
        return True
    return cleared(block) is not block
