"""One full batch: what is decided of it, and what becomes of the session when its step has run.

`decide` follows the context and checks the block; `apply` takes what a step learnt, or what is
right instead, and answers. Both are functions from values to values; between them runs the step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from edgemem.block import Array, Arrays, Block
from edgemem.runtime.answers import Answers
from edgemem.runtime.batch import Batch
from edgemem.runtime.contexts.context_blocks import arrive
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.guard import frozen_fallback, guard_rails
from edgemem.runtime.guard.escalation import Rung
from edgemem.runtime.guard.failure_indicators import is_still
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.runtime.session import Session
from edgemem.runtime.step.policy import Verdict, judge

STILL = Event(EventKind.STILL, "all frames of the batch are the same")
UNRELIABLE = Event(
    EventKind.UNRELIABLE, "no frame of the batch was reliable enough to learn from", logging.DEBUG
)
UNCHANGED = Event(EventKind.UNRELIABLE, "the step changed nothing", logging.DEBUG)
SKIPPED = Event(
    EventKind.SKIPPED, "the step gave non-finite values; the block stays as it was", logging.DEBUG
)
FROZEN = Event(
    EventKind.FROZEN, "the block gives non-finite answers; the frozen model answered", logging.DEBUG
)


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What a full batch leads to.

    session: with the block of its context. learns: whether a step may follow. judged: whether what
    the block answers is judged beside the frozen model.
    """

    session: Session
    events: Events
    learns: bool = False
    judged: bool = False


def decide(session: Session, batch: Batch, files: ContextFiles) -> StepPlan:
    """Follow the context of a full batch, and check the block in use; nothing is learnt yet."""
    if is_still(batch.frames):
        return StepPlan(session, (STILL,))
    events: Events = ()
    if batch.key is not None and session.contexts.follows:
        session, events = _followed(session, batch.key, files)
    session, more = frozen_fallback.look(session, batch, files)
    events += more
    if session.familiarity.holds:
        return StepPlan(session, events)
    session, more = guard_rails.check(session, batch, files)
    learns = session.watch.escalation.rung is Rung.LEARN
    return StepPlan(session, events + more, learns, judged=True)


def apply(
    session: Session, plan: StepPlan, batch: Batch, outputs: Arrays | None, files: ContextFiles
) -> tuple[Session, Answers, Events]:
    """Take what the step learnt, if it has run; and the answers to the batch, from before it.

    session: the plan's, or what a step in the background has made of it meanwhile.
    outputs: of `adapt`; None = no step was due, or it runs in the background.
    """
    if not plan.judged:
        return session, *answer(session, batch, len(batch))
    if outputs is None:
        own, events = own_answers(session.block, session, batch)
    else:
        session, own, events = learn(session, batch, outputs, files)
    if session.watch.escalation.rung is Rung.FROZEN:
        return session, batch.frozen(session.taught), events
    session, answers, more = frozen_fallback.frozen_fallback(session, batch, own, files)
    return session, answers, events + more


def learn(
    session: Session, batch: Batch, outputs: Arrays, files: ContextFiles
) -> tuple[Session, Answers, Events]:
    """Take the next block of a step, or what is right instead; the answers of the one before."""
    session, verdict = session.counting(steps=1), judge(outputs)
    answers = batch.told(outputs)
    if verdict is Verdict.RESTORE:
        return _restored(session, batch, files)
    if verdict is Verdict.KEEP and session.contexts.reading:
        return session, answers, ()  # of the generic block, which is not the one to learn in
    if verdict is Verdict.SKIP:
        session = replace(session, slots=files.bundle.manifest.slots.zero())
        return session.counting(skipped=1), answers, (SKIPPED,)
    if verdict is Verdict.UNRELIABLE:
        return session.counting(unreliable=1), answers, (UNRELIABLE,)
    following = Block.named("next.block", outputs)
    slots, entropy = Block.named("next.opt", outputs), _entropy(session, outputs)
    if following.has_values_of(session.block):
        session = replace(session, slots=slots, entropy=entropy)
        return session.counting(unreliable=1), answers, (UNCHANGED,)
    text = f"step {session.counters.steps}"
    session = replace(session, block=following, slots=slots, entropy=entropy)
    told = Event(EventKind.ADAPTED, text, logging.DEBUG)
    return session.counting(updates=1), answers, (told,)


def answer(
    session: Session, batch: Batch, n: int, block: Block | None = None
) -> tuple[Answers, Events]:
    """Answers to the last n frames of a batch: the block's, the frozen model's, or both's.

    block: another one than that in use, because these frames are clearly of another context.
    """
    if session.frozen_share == 1.0:
        return batch.last(n).frozen(session.taught), ()
    in_use = block is None or block is session.block
    if session.familiarity.holds and not session.classes.taught and in_use:
        if session.familiarity.in_order:
            return batch.frozen_in_order(session.taught)[-n:], ()
        return batch.last(n).frozen(), ()
    own, events = own_answers(session.block if block is None else block, session, batch)
    return frozen_fallback.with_frozen(session, batch, own[-n:]), events


def own_answers(block: Block, session: Session, batch: Batch) -> tuple[Answers, Events]:
    """Answers of a block; the frozen model's if it fails."""
    if batch.works(block):
        return batch.answers(block), ()
    return batch.frozen(session.taught), (FROZEN,)


def _followed(session: Session, key: Array, files: ContextFiles) -> tuple[Session, Events]:
    """With the block of the context that the frames come from."""
    arrival = arrive(session.contexts, key, session.block, files)
    session = replace(session, contexts=arrival.contexts)
    if arrival.block is not None:
        session = session.taking(arrival.block, files.bundle)
        session = frozen_fallback.in_new_context(guard_rails.in_new_context(session), files)
    return session, arrival.events


def _restored(
    session: Session, batch: Batch, files: ContextFiles
) -> tuple[Session, Answers, Events]:
    """The present block fails on these frames: back to the last good one, or further."""
    what = "the last good block is back"
    if session.good is not session.block:
        session = replace(session, block=session.good)
    else:
        source = session.source(files.bundle)
        session, found = guard_rails.fall_back(session, batch.works, files)
        session = replace(session, block=found, good=found)
        what = "what was learnt here is dropped"
        if found.has_values_of(source):
            what = "the source block is back"
    session = replace(session, slots=files.bundle.manifest.slots.zero()).counting(restored=1)
    told = Event(EventKind.RESTORED, f"the loss was not finite; {what}", logging.DEBUG)
    own, events = own_answers(session.block, session, batch)
    return session, own, (told, *events)


def _entropy(session: Session, outputs: Arrays) -> float:
    entropy = float(outputs.get("stat.entropy", session.entropy))
    return entropy if np.isfinite(entropy) else session.entropy
