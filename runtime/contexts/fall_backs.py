"""Blocks to fall back on where the present one has failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgemem.block import Block
from edgemem.runtime.contexts.context_blocks import ContextBlocks, with_taught
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.recognition import NONE
from edgemem.runtime.contexts.shipped_rows import NOTHING


def fall_backs(
    contexts: ContextBlocks, without_steps: Block, taught: Block, files: ContextFiles
) -> Iterator[tuple[Block, ContextBlocks]]:
    """Blocks for a present context whose own has failed, nearest first.

    Each comes with the contexts in which it is the context's own: the root gets nothing of what was
    learnt on the way there. Nothing of other contexts is lost by any of them.

    without_steps: the block in use without what steps have learnt.
    taught: arrays that labelled frames have changed, of the block in use; all of them get it.
    """
    if not contexts.follows:
        yield without_steps, contexts
        return
    yield without_steps, _starting_from(contexts, without_steps)
    if contexts.policy.present != NONE:
        if contexts.rows.path:
            base = contexts.base.replace(taught)
            yield base, _starting_from(contexts, base)
        root = contexts.root.replace(taught)
        yield root, _starting_from(_rowless(contexts), root)
    generic = files.bundle.generic.replace(taught)
    kept = contexts.kept.with_root(with_taught(contexts, generic, files), "the root had failed")
    yield generic, _starting_from(_rowless(replace(contexts, kept=kept)), generic)


def _starting_from(contexts: ContextBlocks, block: Block) -> ContextBlocks:
    """With this as the block of the present context."""
    return contexts if contexts.policy.present == NONE else contexts.with_leaf_of(block)


def _rowless(contexts: ContextBlocks) -> ContextBlocks:
    """With a present context that stands on no shipped rows."""
    if contexts.policy.present == NONE:
        return replace(contexts, rows=NOTHING)
    kept = contexts.kept.with_path(contexts.policy.present, ())
    return replace(contexts, rows=NOTHING, kept=kept)
