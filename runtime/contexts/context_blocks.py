"""Blocks of contexts: which one is in use, what it is the sum of, and where its changes go.

The block in use is root + shipped rows + leaf; all that steps learn goes to the leaf.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from edgemem.block import Array, Block, is_finite
from edgemem.bundle.manifest import Teaching
from edgemem.runtime.contexts.context_files import PREFIX, ContextFiles
from edgemem.runtime.contexts.kept_blocks import KeptBlocks
from edgemem.runtime.contexts.recognition import NONE, Contexts, drifting, elsewhere, follow
from edgemem.runtime.contexts.shipped_rows import LAST_PATIENCE, NOTHING, PATIENCE, Request, Rows
from edgemem.runtime.result import Event, EventKind, Events

CAPACITY = 64  # contexts
GENERIC = "generic"


@dataclass(frozen=True, eq=False)
class ContextBlocks:
    """The contexts of a device, and their blocks.

    Attributes:
        kept: root and leaves.
        policy: which contexts there are, and the present one.
        follows: whether contexts are told apart; else nothing of this changes but by teaching.
        rows: of the present context; request: for those, while they are being read.
    """

    kept: KeptBlocks
    follows: bool = True
    policy: Contexts = field(default_factory=Contexts)
    rows: Rows = NOTHING
    request: Request | None = None

    @classmethod
    def new(cls, root: Block, *, follows: bool) -> ContextBlocks:
        """No contexts yet."""
        return cls(KeptBlocks(root), follows)

    @property
    def name(self) -> str:
        """Name of the present context."""
        present = self.policy.present
        return GENERIC if present == NONE else f"{PREFIX}{present}"

    @property
    def root(self) -> Block:
        """The block of a context of which nothing is known."""
        return self.kept.root

    @property
    def base(self) -> Block:
        """What the leaf of the present context stands on."""
        return self.root + self.rows.values

    @property
    def reading(self) -> bool:
        """Whether the shipped rows of the present context are not there yet."""
        return self.request is not None

    @property
    def drift(self) -> float | None:
        """Distance of the last key from the present context.

        A source batch is about one from the mean of the source.
        """
        return self.policy.drift if self.follows else None

    def is_drifting(self, files: ContextFiles) -> bool:
        """Whether there is something to adapt to: see `recognition.drifting`."""
        return not self.follows or drifting(self.policy, files.source.novelty)

    def with_leaf_of(self, block: Block) -> ContextBlocks:
        """With the leaf that makes this the block of the present context."""
        kept = self.kept.with_leaf(self.policy.present, block - self.base)
        return replace(self, kept=kept)


@dataclass(frozen=True, eq=False)
class Arrival:
    """What came of looking for the block to go on with. block: None = the one in use."""

    contexts: ContextBlocks
    block: Block | None = None
    events: Events = ()


def arrive(before: ContextBlocks, key: Array, block: Block, files: ContextFiles) -> Arrival:
    """Follow the key of a batch to the block of its context.

    Args:
        before: the contexts as they were.
        key: of the batch, finite.
        block: the one in use.
        files: where blocks and rows are read.
    """
    novelty = files.source.novelty
    policy = follow(before.policy, files.source.normal(key), novelty, CAPACITY)
    if policy.present == before.policy.present:
        stays = replace(before, policy=policy)
        return rows_arrived(stays, files) if before.reading else Arrival(stays)
    kept, left = before.kept, before.policy.present
    if left in policy.known and not before.reading:
        kept = before.with_leaf_of(block).kept
    dropped = set(before.policy.known) - set(policy.known)
    kept = kept.without(dropped, noted=files.has_state)
    new = policy.present not in before.policy.known
    if new:
        kept = kept.with_leaf(policy.present, block.zeros())
    contexts = _asking(replace(before, policy=policy, kept=kept), files)
    told = Event(EventKind.CONTEXT, f"{contexts.name} is {'new' if new else 'back'}")
    found = rows_arrived(contexts, files)
    arrived = found.block
    if arrived is None:
        arrived = with_taught(contexts, files.bundle.generic, files)
    return Arrival(found.contexts, arrived, (told, *found.events))


def rows_arrived(
    contexts: ContextBlocks, files: ContextFiles, patience: float = PATIENCE
) -> Arrival:
    """Go on with the block of the present context, unless its shipped rows are still to come.

    patience: seconds to wait for them.
    """
    contexts, asked, events = _answered(contexts, patience)
    if contexts.reading:
        text = f"rows of {contexts.name} are on the way; generic block"
        return Arrival(contexts, None, (*events, Event(EventKind.READING, text)))
    if asked:
        kept = contexts.kept.with_path(contexts.policy.present, contexts.rows.path)
        contexts = replace(contexts, kept=kept)
    contexts, standing, more = standing_anew(contexts, files)
    return Arrival(contexts, standing, events + more)


def settle(contexts: ContextBlocks, files: ContextFiles) -> Arrival:
    """Wait for the rows that are being read, but not for ever."""
    reads = contexts.reading
    return rows_arrived(contexts, files, LAST_PATIENCE) if reads else Arrival(contexts)


def glimpse(contexts: ContextBlocks, key: Array, noise: float, files: ContextFiles) -> Block | None:
    """The block for a few frames that are clearly not of the present context; else None.

    noise: how many times as far as that of a full batch such a key scatters.
    """
    source = files.source
    number = elsewhere(contexts.policy, source.normal(key), noise * source.novelty)
    if number is None:
        return None
    if number == NONE or contexts.kept.paths.get(number):
        return contexts.root  # shipped rows take too long to read
    block = contexts.root + files.leaf(contexts.kept, number)[0]
    return block if block.is_sound() else None


def teach(contexts: ContextBlocks, change: Block, teaching: Teaching) -> ContextBlocks:
    """Take the change that labelled frames made to the block in use.

    Of the arrays that are taught the root takes its share at once, so that all contexts know the
    classes; the rest is the present context's, and so is what the frames changed beside them.
    Without a context, or while its rows are being read, there is only the root.
    """
    if not contexts.follows:
        return contexts
    rooted = contexts.policy.present == NONE
    share = 1.0 if rooted or contexts.reading else teaching.root_share
    told = change if rooted else change.part(teaching.arrays)
    part = {name: np.asarray(np.asarray(share, a.dtype) * a) for name, a in told.items()}
    kept = contexts.kept.with_root(contexts.root + part, "taught")
    return replace(contexts, kept=kept)


def forget(contexts: ContextBlocks, cleared: Callable[[Block], Block]) -> ContextBlocks:
    """Without what was taught of a class, as far as it is in memory."""
    if not contexts.follows:
        return contexts
    return replace(contexts, kept=contexts.kept.cleared(cleared))


def started_again(contexts: ContextBlocks, root: Block, files: ContextFiles) -> ContextBlocks:
    """Without any context; the written blocks go with the next commit. Going on with a root."""
    if not contexts.follows:
        return contexts
    kept = contexts.kept.started_again(contexts.policy.known, root, files.bundle.generic)
    return ContextBlocks(kept, policy=Contexts(opened=contexts.policy.opened))


def sound(contexts: ContextBlocks, files: ContextFiles) -> tuple[ContextBlocks, Events]:
    """Before a commit: what is no sound block, or no sound context, starts afresh."""
    kept, events = files.sound(contexts.kept)
    contexts = replace(contexts, kept=kept)
    known = contexts.policy.known
    finite = {n: c for n, c in known.items() if is_finite({"key": c.key, "": np.array(c.spread)})}
    gone = set(known) - set(finite)
    if not gone:
        return contexts, events
    present = contexts.policy.present if contexts.policy.present in finite else NONE
    policy = replace(contexts.policy, known=finite, present=present)
    told = (f"{PREFIX}{number} has no finite key; it is dropped" for number in gone)
    events += tuple(Event(EventKind.DAMAGED, text) for text in told)
    return replace(contexts, kept=contexts.kept.without(gone), policy=policy), events


def asking_again(contexts: ContextBlocks, files: ContextFiles) -> tuple[ContextBlocks, Events]:
    """At opening: with the rows of the present context, if they are there before long."""
    contexts, _, events = _answered(_asking(contexts, files), LAST_PATIENCE)
    return contexts, events


def _asking(contexts: ContextBlocks, files: ContextFiles) -> ContextBlocks:
    """Having asked for the rows of the present context."""
    present, request = contexts.policy.present, None
    if present != NONE:
        key, path = contexts.policy.known[present].key, contexts.kept.paths.get(present)
        request = files.ask_rows(key, path)
    return replace(contexts, rows=NOTHING, request=request)


def _answered(contexts: ContextBlocks, patience: float) -> tuple[ContextBlocks, bool, Events]:
    """With the rows that were asked for, if they are there.

    Beside it whether any were asked for, and what is wrong with them.
    """
    if contexts.request is None:
        return contexts, False, ()
    rows = contexts.request.answer(patience)
    if rows is None:
        return contexts, True, ()
    faults = tuple(Event(EventKind.DAMAGED, text, logging.WARNING) for text in rows.faults)
    return replace(contexts, rows=rows, request=None), True, faults


def standing_anew(
    contexts: ContextBlocks, files: ContextFiles
) -> tuple[ContextBlocks, Block, Events]:
    """The block of the present context; without its leaf if that makes no sound block of it."""
    number, base = contexts.policy.present, contexts.base
    if number == NONE:
        return contexts, base, ()
    leaf, events = files.leaf(contexts.kept, number)
    block = base + leaf
    if block.is_sound():
        return contexts, block, events
    text = f"{PREFIX}{number} is no sound block; it starts afresh"
    kept = contexts.kept.with_leaf(number, block.zeros())
    return replace(contexts, kept=kept), base, (*events, Event(EventKind.DAMAGED, text))


def with_taught(contexts: ContextBlocks, block: Block, files: ContextFiles) -> Block:
    """With what all contexts were taught."""
    teaching = files.bundle.manifest.teaching
    return block if teaching is None else block.replace(contexts.root.part(teaching.arrays))
