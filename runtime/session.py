"""All that changes on a device, as one value.

Whoever decides something makes another session; to undo it is to keep the one before. Frames are
no part of it: those that were seen stay seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgemem.block import Block
from edgemem.bundle.opening import Bundle
from edgemem.runtime.classes.class_table import ClassTable, own_classes
from edgemem.runtime.contexts.context_blocks import ContextBlocks
from edgemem.runtime.contexts.lookahead import Lookahead
from edgemem.runtime.guard.escalation import Escalation, Rung
from edgemem.runtime.guard.failure_indicators import Evidence
from edgemem.runtime.guard.familiar import Familiarity, nothing_seen
from edgemem.runtime.guard.frozen_share import used


@dataclass(frozen=True)
class Counters:
    """How often each thing happened since the state file was new."""

    frames: int = 0
    steps: int = 0
    updates: int = 0
    unreliable: int = 0
    skipped: int = 0
    restored: int = 0

    def plus(self, **more: int) -> Counters:
        """After some more of them, by name."""
        return replace(self, **{name: getattr(self, name) + n for name, n in more.items()})


@dataclass(frozen=True)
class Watch:
    """How far the guard rails trust the block in use.

    escalation: where they stand. checked: updates at the last check. evidence: against the block.
    """

    escalation: Escalation = field(default_factory=Escalation)
    checked: int = 0
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class Share:
    """The frozen model's part of the answers.

    of_frozen: 0 to 1. batches: since the context began.
    """

    of_frozen: float = 0.0
    batches: int = 0


@dataclass(frozen=True, eq=False)
class Session:
    """All that changes on a device, as one value.

    Attributes:
        block: the one in use.
        good: the last that was found to be sound.
        slots: the optimiser's.
        contexts: what is known of contexts, and their blocks.
        classes: their names, and what was taught of them.
        watch: of the guard rails.
        share: of the frozen model in an answer.
        familiarity: of the frames that come in.
        lookahead: at frames that have not filled a batch.
        entropy: mean of the last step.
        pending: frames that wait for a step.
        let_go: frames that waited for one until others of another size came.
    """

    block: Block
    good: Block
    slots: Block
    contexts: ContextBlocks
    classes: ClassTable
    familiarity: Familiarity
    counters: Counters = field(default_factory=Counters)
    watch: Watch = field(default_factory=Watch)
    share: Share = field(default_factory=Share)
    lookahead: Lookahead = field(default_factory=Lookahead)
    entropy: float = 0.0
    pending: int = 0
    let_go: int = 0

    @property
    def taught(self) -> Block:
        """The arrays that labelled frames have changed, as the block in use has them.

        They are no part of what steps learn: whatever block comes in its place has them, too.
        """
        return self.block.part(self.classes.taught)

    @property
    def frozen_share(self) -> float:
        """What part of an answer is the frozen model's: 0 to 1, and 1 only by the guard rails."""
        return 1.0 if self.watch.escalation.rung is Rung.FROZEN else used(self.share.of_frozen)

    def source(self, bundle: Bundle) -> Block:
        """The block as exported, with what was taught."""
        return bundle.generic.replace(self.taught)

    def without_steps(self, bundle: Bundle) -> Block:
        """The block in use with what it remembers, but with nothing that followed a gradient."""
        arrays = bundle.manifest.block.arrays
        return bundle.generic.replace(self.block.part(a.name for a in arrays if not a.learns))

    def taking(self, block: Block, bundle: Bundle) -> Session:
        """Going on with another block; the optimiser starts afresh."""
        return replace(self, block=block, good=block, slots=bundle.manifest.slots.zero())

    def counting(self, **more: int) -> Session:
        """After something has happened, see `Counters`."""
        return replace(self, counters=self.counters.plus(**more))

    def all_classes(self, bundle: Bundle) -> ClassTable:
        """The classes as they are; blocks that were imported know some without names."""
        teaching = bundle.manifest.teaching
        return (
            self.classes
            if teaching is None
            else self.classes.covering(self.block[teaching.arrays[0]])
        )


def new_session(bundle: Bundle, *, follows: bool) -> Session:
    """Nothing has been seen or learnt. follows: whether contexts are told apart."""
    manifest, generic = bundle.manifest, bundle.generic
    return Session(
        block=generic,
        good=generic,
        slots=manifest.slots.zero(),
        contexts=ContextBlocks.new(generic, follows=follows),
        classes=own_classes(manifest),
        familiarity=Familiarity(nothing_seen(manifest.key, manifest.classes)),
    )
