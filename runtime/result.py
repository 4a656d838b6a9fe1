"""What predict and step return."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edgemem.runtime.logits import Logits, entropies

log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What can happen besides predicting."""

    ADAPTED = "adapted"  # a step changed the block
    LEARNT = "learnt"  # labelled frames changed it
    FAMILIAR = (
        "familiar"  # frames are like the source's: the frozen model answers, nothing is learnt
    )
    UNFAMILIAR = "unfamiliar"  # no longer: the block answers and learns
    UNRELIABLE = "unreliable"  # the step found nothing to learn from
    SKIPPED = (
        "skipped"  # a step's block was thrown away, or none was made: something is wrong with it
    )
    RESTORED = "restored"  # the last good block came back
    RESET = "reset"  # what the context learnt was dropped
    FROZEN = "frozen"  # the frozen model answers instead, or has half of the answer and more
    RECOVERED = "recovered"  # a block is trusted again
    STILL = "still"  # frames without any difference
    CONTEXT = "context"  # another context began
    # A commit, a written block or a shipped row could not be read, or does not fit: an earlier one
    # is taken, and without any it counts as zero.
    DAMAGED = "damaged"
    READING = "reading"  # shipped rows are not there yet; the generic block predicts
    EVICTED = "evicted"  # a written block had to make room
    UNWRITTEN = "unwritten"  # the disk refused a commit; what was learnt stays in memory
    FALLBACK = "fallback"  # an engine that was preferred fails; another one runs
    RANGE = "range"  # frames are of another scale than source frames were; told once
    # An answer holds values that are no numbers, whichever model gives it; its label means nothing.
    OVERFLOW = "overflow"


CHANGES = frozenset({EventKind.ADAPTED, EventKind.LEARNT})
GUARD_RAILS = frozenset({
    EventKind.SKIPPED, EventKind.RESTORED, EventKind.RESET, EventKind.FROZEN, EventKind.RECOVERED,
    EventKind.STILL,
})  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Something that happened besides predicting.

    kind: see `EventKind`; it compares equal to its text. level: of the line in the log.
    """

    kind: EventKind
    message: str
    level: int = field(default=logging.INFO, repr=False, compare=False)


Events = tuple[Event, ...]


def tell(events: Events) -> Events:
    """The same events, after a line in the log for each."""
    for event in events:
        log.log(event.level, "%s: %s", event.kind, event.message)
    return events


@dataclass(frozen=True, eq=False)
class Result:
    """Predictions for n frames, all made before any update on them.

    logits: [n, classes] float32; about -1e4 for a class that is not open. labels: [n] int64, the
    argmax. names: [n], of the classes with these labels. entropy: [n] float32, in nats.
    context: name of the context whose block was used. adapted: whether the block changed in this
    call. events: what else happened, in order. drift: distance of the last full batch from its
    context, in units in which a batch of source data is about one from the source; None where
    contexts are not told apart.
    """

    logits: Logits
    labels: NDArray[np.int64]
    entropy: NDArray[np.float32]
    context: str
    adapted: bool
    events: Events
    drift: float | None
    names: tuple[str, ...]


def overflow(logits: Logits) -> Events:
    """The event of answers that are no numbers, where there are any."""
    if not (wrong := len(logits) - int(np.isfinite(logits).all(1).sum())):
        return ()
    text = f"{wrong} of {len(logits)} answers are no numbers, not even the frozen model's"
    return (Event(EventKind.OVERFLOW, text, logging.WARNING),)


def make_result(
    logits: Logits,
    context: str,
    events: Events,
    drift: float | None,
    names: Mapping[int, str],
) -> Result:
    """Complete logits [n, classes] to a result. names: of classes, by number."""
    adapted = any(event.kind in CHANGES for event in events)
    labels, entropy = logits.argmax(1), entropies(logits)
    named = tuple(names.get(label, str(label)) for label in labels.tolist())
    return Result(logits, labels, entropy, context, adapted, events, drift, named)
