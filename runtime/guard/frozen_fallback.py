"""Whether the frozen model answers in place of the adapted one, or beside it.

Familiar frames: where what comes in is like the source's, the frozen model answers and nothing is
learnt, see `familiar`.

Its share: batches of few classes spoil statistics that are taken from them, which no block can
help. The adapted model is then far less certain than the frozen one, which gets the larger a share
of the answer, while the block goes on learning.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgemem.block import Array, is_finite
from edgemem.runtime.answers import Answers, entropies_of, mean_entropies
from edgemem.runtime.batch import Batch
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.recognition import SourceKeys
from edgemem.runtime.guard.familiar import Familiarity, Seen, is_as_certain, is_near, nothing_seen
from edgemem.runtime.guard.frozen_share import (
    HALF,
    averaged,
    blended,
    chosen,
    frozen_share,
    is_surer,
    used,
)
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.runtime.session import Session, Share

ASK_EVERY = 4  # batches, while the frozen model has no share of the answer
CLEAR_UP = 256.0  # frames about which the frozen model is asked one batch after the other
FAMILIAR = Event(
    EventKind.FAMILIAR,
    "the frames are like the source's; the frozen model answers and nothing is learnt",
)
UNFAMILIAR = "the frames are not like the source's any more"
TAUGHT = "classes were taught, which the source does not have"


def in_new_context(session: Session, files: ContextFiles) -> Session:
    """Another context has begun: nothing has been seen of it."""
    familiarity = Familiarity(_nothing_seen(files), 0, session.familiarity.holds)
    return replace(session, familiarity=familiarity, share=replace(session.share, batches=0))


def look(session: Session, batch: Batch, files: ContextFiles) -> tuple[Session, Events]:
    """Take note of whether a full batch goes on what is like the source's.

    Where classes were taught nothing is: the source has none of them. Nor is a batch without a key.
    """
    before, found = session.familiarity, replace(session.familiarity, holds=False)
    if batch.key is not None:
        found = _goes_on(session, batch, batch.key, files)
    events: Events = ()
    if found.holds and not before.holds:
        events = (FAMILIAR,)
    elif before.holds and not found.holds:
        text = TAUGHT if session.classes.taught else UNFAMILIAR
        events = (Event(EventKind.UNFAMILIAR, text),)
    return replace(session, familiarity=found), events


def may_be_familiar(session: Session, few: Batch, files: ContextFiles) -> bool:
    """Whether the first frames of all, too few for a batch, may be the source's.

    Statistics that are taken from so few are worse than the source's then.
    """
    frames = files.bundle.manifest.frames
    if not frames.companions or not _may_be(session, files) or len(few) >= frames.batch:
        return False
    if few.key is None:
        return False
    seen = _nothing_seen(files).with_key(files.source.normal(few.key), len(few))
    return is_near(seen, files.source, frames.batch)


def frozen_fallback(
    session: Session, batch: Batch, own: Answers, files: ContextFiles
) -> tuple[Session, Answers, Events]:
    """The answers [n, ...] to a full batch: the block's, the frozen model's, or both together.

    The frozen model's have a part where they deserve a share; what is found holds for the frames
    after it, too. No batch can spoil statistics of the source, and without its keys nothing is
    known of it: such bundles have no share. Nor have other tasks than classes, but where source
    frames told how much surer a block has to be.
    """
    share = replace(session.share, batches=session.share.batches + 1)
    counted = replace(session, share=share)
    before, asked = share.of_frozen, used(share.of_frozen) or share.batches % ASK_EVERY == 1
    newest = _newest(session, batch, own, files) if asked else None
    if newest is None:
        return counted, own, ()
    now = newest if share.batches == 1 else averaged(before, newest)
    session = replace(counted, share=Share(now, share.batches))
    return session, with_frozen(session, batch, own), _told(before, now)


def _newest(session: Session, batch: Batch, own: Answers, files: ContextFiles) -> float | None:
    """The share that a batch speaks for; None where nothing tells.

    Steps may make a block as certain as they like, so a limit of certainty is asked of the block
    without them.
    """
    manifest = files.bundle.manifest
    found: float | None = None
    if manifest.task is None and manifest.frames.companions and batch.key is not None:
        frozen = batch.frozen(session.taught)
        found = frozen_share(own, frozen, _distance(batch.key, files.source))
    if manifest.surer_below is not None and not session.classes.taught:
        both = batch.answers(session.without_steps(files.bundle)), batch.frozen()
        alone, frozen_alone = (float(entropies_of(rows, manifest.task).mean()) for rows in both)
        surer = is_surer(alone, frozen_alone, manifest.surer_below)
        found = (found or 0.0) if surer else 1.0
    return found


def with_frozen(session: Session, batch: Batch, own: Answers) -> Answers:
    """The block's answers [n, ...] to a batch's last frames, with the frozen model's share."""
    share = used(session.share.of_frozen)
    if not share or (share < HALF and not batch.tells_classes):
        return own
    frozen = batch.frozen_in_order(session.taught)[-len(own) :]
    return (blended if batch.tells_classes else chosen)(own, frozen, share)


def _told(before: float, now: float) -> Events:
    if before < HALF <= now:
        text = f"the adapted model is unsure; the frozen one has {now:.0%} of the answer"
        return (Event(EventKind.FROZEN, text),)
    if now < HALF <= before:
        return (Event(EventKind.RECOVERED, "the adapted model is sure again"),)
    return ()


def _goes_on(session: Session, batch: Batch, key: Array, files: ContextFiles) -> Familiarity:
    before, source, size = session.familiarity, files.source, len(batch)
    seen, looks = before.seen.with_key(source.normal(key), size), before.looks + 1
    if not _may_be(session, files) or not is_near(seen, source, size, before.holds):
        return Familiarity(seen, looks)
    if seen.asked < CLEAR_UP or looks % ASK_EVERY == 1:
        answers = batch.frozen()
        if not is_finite({"": answers}):
            return Familiarity(seen, looks)
        task = files.bundle.manifest.task
        if task is None:
            seen = seen.with_answers(answers)
        else:
            seen = seen.with_entropies(mean_entropies(answers, task))
    return Familiarity(seen, looks, is_as_certain(seen, source, before.holds))


def _may_be(session: Session, files: ContextFiles) -> bool:
    """Whether any frames may be familiar."""
    return files.bundle.manifest.familiar and not session.classes.taught


def _nothing_seen(files: ContextFiles) -> Seen:
    return nothing_seen(files.bundle.manifest.key, files.bundle.manifest.classes)


def _distance(key: Array, source: SourceKeys) -> float:
    """Of a batch from the source."""
    return float(np.sqrt(np.mean(np.square(source.normal(key)))))
