"""Guard rails: is the block in use still to be trusted? Without labels, beside two others.

The references are the frozen model, and the block without what its steps have learnt. Where these
two agree they are mostly right, whatever the shift and however labels are ordered; so a block that
contradicts both on more of such frames than chance allows goes a rung further (`escalation`).
Evidence is gathered over checks, for batches may be small. Where no classes are told apart, the
distance of the outputs from the frozen model's tells (`output_distance`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgemem.block import Block
from edgemem.bundle.manifest import Manifest
from edgemem.runtime.answers import Answers, summaries
from edgemem.runtime.batch import Batch
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.fall_backs import fall_backs
from edgemem.runtime.guard.escalation import Rung
from edgemem.runtime.guard.failure_indicators import FARTHEST, Evidence, farthest, names_one_class
from edgemem.runtime.guard.familiar import Familiarity, nothing_seen
from edgemem.runtime.guard.output_distance import strayed
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.runtime.session import Session, Share, Watch

CHECK_EVERY, PROBATION = 8, 2  # updates between checks: in general, and after an alarm
PROBE = 16  # frames of a batch that take part in a check, at least
ENOUGH = 32  # frames whose verdict is no whim of a batch: what steps have learnt is dropped at once


@dataclass(frozen=True)
class Finding:
    """What is wrong with a block. rung: the least one that helps."""

    text: str
    rung: Rung


def in_new_context(session: Session) -> Session:
    """Another context's block has been taken: check it on the next batch."""
    watch = Watch(session.watch.escalation, -CHECK_EVERY)
    return replace(session, watch=watch)


def starting_again(session: Session, files: ContextFiles) -> Session:
    """Trust the block in use, and learn."""
    manifest = files.bundle.manifest
    seen = nothing_seen(manifest.key, manifest.classes)
    watch = Watch(checked=_moves(session, files))
    return replace(session, watch=watch, share=Share(), familiarity=Familiarity(seen))


def is_finite(session: Session) -> bool:
    """Whether what was gathered of the frames holds neither NaN nor an infinity."""
    evidence = session.watch.evidence
    gathered = [*session.familiarity.seen.to_array(), evidence.agreed, evidence.against]
    return bool(np.isfinite(gathered).all())


def check(session: Session, batch: Batch, files: ContextFiles) -> tuple[Session, Events]:
    """Check the block in use if that is due; whether a step may follow.

    Nothing was learnt from the batch yet. Does what the escalation says. A step may follow only on
    `Rung.LEARN`.
    """
    moves, before = _moves(session, files), session.watch
    learning = before.escalation.rung is Rung.LEARN
    if learning and moves - before.checked < _pause(before, files):
        return session, ()
    found, evidence = _examined(session, batch, session.block, before.evidence, files)
    watch = Watch(before.escalation.after(found is not None), moves, evidence)
    session = replace(session, watch=watch)
    if found is not None:
        return _climbed(session, before.escalation.rung, found, batch, files)
    if watch.escalation.rung is not Rung.LEARN:
        return session, ()
    session = replace(session, good=session.block)
    text = "the block passes its checks; it learns again"
    return session, () if learning else (Event(EventKind.RECOVERED, text),)


def fall_back(
    session: Session, works: Callable[[Block], bool], files: ContextFiles
) -> tuple[Session, Block]:
    """The first block to fall back on that is another one and works; the source's at last."""
    alone = session.without_steps(files.bundle)
    for block, contexts in fall_backs(session.contexts, alone, session.taught, files):
        if works(block) and not session.block.has_values_of(block):
            return replace(session, contexts=contexts), block
    return session, session.source(files.bundle)


def _moves(session: Session, files: ContextFiles) -> int:
    """What checks are counted by: updates.

    Where no classes are told apart, steps: what the statistics of any batch make of the outputs is
    looked at, whether or not something was learnt.
    """
    counters = session.counters
    return counters.updates if files.bundle.manifest.task is None else counters.steps


def _pause(watch: Watch, files: ContextFiles) -> int:
    """Updates between two checks; small batches need more of them."""
    often = max(1, min(CHECK_EVERY, files.bundle.manifest.frames.batch // 2))
    return min(PROBATION, often) if watch.escalation.relapses else often


def _examined(
    session: Session, batch: Batch, block: Block, evidence: Evidence, files: ContextFiles
) -> tuple[Finding | None, Evidence]:
    """What is wrong with a block, or None; and the evidence with this batch."""
    bundle, probe = files.bundle, batch.every(max(1, len(batch) // PROBE))
    distance = farthest(bundle.manifest.block, bundle.generic, block)
    if not distance <= FARTHEST:
        text = f"the block has drifted by {distance:.1f} from the source"
        return Finding(text, Rung.LAST_GOOD), evidence
    own = probe.answers(block)
    if not np.isfinite(own).all():
        return Finding("the block gives non-finite answers", Rung.LAST_GOOD), evidence
    if bundle.manifest.task is not None:
        return _strayed(own, probe.frozen(), bundle.manifest), evidence
    reference = probe.answers(session.without_steps(bundle))
    evidence = evidence.after(own, reference, probe.frozen(session.taught))
    if not evidence.is_enough():
        return None, evidence
    name = "one class for nearly all frames" if names_one_class(own) else "other classes"
    text = f"the block predicts {name}, against frozen model and no step on {evidence.share:.0%}"
    whim = session.watch.escalation.rung is Rung.LEARN and evidence.agreed < ENOUGH
    return Finding(text, Rung.SKIP if whim else Rung.SOURCE), evidence


def _strayed(own: Answers, frozen: Answers, manifest: Manifest) -> Finding | None:
    """Whether outputs are further from the frozen model's than shifts of source frames make them.

    See `strayed`.
    """
    task = manifest.task
    assert task is not None
    away = strayed(summaries(own, manifest), summaries(frozen, manifest), task)
    if away is None:
        return None
    text = f"the outputs are {away:.3g} source deviations from the frozen model's, and may be "
    return Finding(f"{text}{task.limit:.3g}", Rung.SKIP)


def _climbed(
    session: Session, before: Rung, found: Finding, batch: Batch, files: ContextFiles
) -> tuple[Session, Events]:
    """After an alarm."""
    escalation = session.watch.escalation
    escalation = replace(escalation, rung=max(escalation.rung, found.rung))
    if escalation.rung is Rung.LAST_GOOD and session.good is session.block:
        escalation = replace(escalation, rung=Rung.SOURCE)
    session = replace(session, watch=replace(session.watch, escalation=escalation))
    if escalation.rung is Rung.SKIP:
        told = _told(EventKind.SKIPPED, found, "nothing is learnt")
        return session.counting(skipped=1), told
    # The evidence is of a block that is given up.
    session = replace(session, watch=replace(session.watch, evidence=Evidence()))
    if escalation.rung is Rung.LAST_GOOD:
        session = session.taking(session.good, files.bundle).counting(restored=1)
        return session, _told(EventKind.RESTORED, found, "the last good block is back")
    if escalation.rung is Rung.SOURCE:
        session, block = fall_back(session, _passes(session, batch, files), files)
        told = _told(EventKind.RESET, found, "what this context learnt is dropped")
        return session.taking(block, files.bundle), told
    if before is Rung.FROZEN:
        return session, ()
    source = session.source(files.bundle)
    return session.taking(source, files.bundle), _told(
        EventKind.FROZEN, found, "the frozen model answers"
    )


def _passes(session: Session, batch: Batch, files: ContextFiles) -> Callable[[Block], bool]:
    """Whether nothing speaks against a block on this batch alone."""
    return lambda block: _examined(session, batch, block, Evidence(), files)[0] is None


def _told(kind: EventKind, found: Finding, then: str) -> Events:
    return (Event(kind, f"{found.text}; {then}", logging.WARNING),)
