"""What predict and step return."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle.manifest import Manifest
from edgemem.runtime.answers import Answers, outputs_of
from edgemem.runtime.logits import Logits, entropies

log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What can happen besides predicting.

    Attributes:
        ADAPTED: a step changed the block.
        LEARNT: labelled frames changed it.
        FAMILIAR: frames are like the source's: the frozen model answers, nothing is learnt.
        UNFAMILIAR: no longer: the block answers and learns.
        UNRELIABLE: the step found nothing to learn from, or changed nothing.
        SKIPPED: a step's block was thrown away, or none was made: something is wrong with it.
        RESTORED: the last good block came back.
        RESET: what the context learnt was dropped.
        FROZEN: the frozen model answers instead, or has half of the answer and more.
        RECOVERED: a block is trusted again.
        STILL: frames without any difference.
        CONTEXT: another context began.
        DAMAGED: a commit, a written block or a shipped row could not be read, or does not fit: an
            earlier one is taken, and without any it counts as zero.
        READING: shipped rows are not there yet; the generic block predicts.
        EVICTED: a written block had to make room.
        UNWRITTEN: the disk refused a commit; what was learnt stays in memory.
        FALLBACK: an engine that was preferred fails; another one runs.
        RESIZED: frames of another size came, and nothing is learnt from those that waited.
        RANGE: frames are of another scale than source frames were; told once.
        OVERFLOW: an answer holds values that are no numbers, whichever model gives it; its label
            means nothing.
    """

    ADAPTED = "adapted"
    LEARNT = "learnt"
    FAMILIAR = "familiar"
    UNFAMILIAR = "unfamiliar"
    UNRELIABLE = "unreliable"
    SKIPPED = "skipped"
    RESTORED = "restored"
    RESET = "reset"
    FROZEN = "frozen"
    RECOVERED = "recovered"
    STILL = "still"
    CONTEXT = "context"
    DAMAGED = "damaged"
    READING = "reading"
    EVICTED = "evicted"
    UNWRITTEN = "unwritten"
    FALLBACK = "fallback"
    RESIZED = "resized"
    RANGE = "range"
    OVERFLOW = "overflow"


CHANGES = frozenset({EventKind.ADAPTED, EventKind.LEARNT})
GUARD_RAILS = frozenset({
    EventKind.SKIPPED, EventKind.RESTORED, EventKind.RESET, EventKind.FROZEN, EventKind.RECOVERED,
    EventKind.STILL,
})  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Something that happened besides predicting.

    Attributes:
        kind: see `EventKind`; it compares equal to its text.
        message: the same in words, for people.
        level: of the line in the log.
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

    A bundle of another task than "classes" has outputs alone: its logits are [n, 0], and labels,
    entropy and names are empty.

    Attributes:
        outputs: by name, float32, as the model lays them out; of classes, "logits" alone.
        logits: [n, classes] float32; about -1e4 for a class that is not open.
        labels: [n] int64, the argmax.
        entropy: [n] float32, in nats.
        context: name of the context whose block was used.
        adapted: whether the block changed in this call.
        events: what else happened, in order.
        drift: distance of the last full batch from its context, in units in which a batch of source
            data is about one from the source; None where contexts are not told apart.
        names: [n], of the classes with these labels.
    """

    logits: Logits
    labels: NDArray[np.int64]
    entropy: NDArray[np.float32]
    context: str
    adapted: bool
    events: Events
    drift: float | None
    names: tuple[str, ...]
    outputs: Mapping[str, Array]


def overflow(answers: Answers) -> Events:
    """The event of answers that are no numbers, where there are any."""
    if not (wrong := len(answers) - int(np.isfinite(answers).all(1).sum())):
        return ()
    text = f"{wrong} of {len(answers)} answers are no numbers, not even the frozen model's"
    return (Event(EventKind.OVERFLOW, text, logging.WARNING),)


def make_result(
    answers: Answers,
    manifest: Manifest,
    context: str,
    events: Events,
    drift: float | None,
    names: Mapping[int, str],
) -> Result:
    """Complete answers [n, numbers] to a result. names: of classes, by number."""
    adapted = any(event.kind in CHANGES for event in events)
    outputs = outputs_of(answers, manifest)
    if manifest.task is not None:
        nothing = np.zeros(0, np.float32)
        told = np.zeros((len(answers), 0), np.float32), np.zeros(0, np.int64), nothing
        return Result(*told, context, adapted, events, drift, (), outputs)
    labels, entropy = answers.argmax(1), entropies(answers)
    named = tuple(names.get(label, str(label)) for label in labels.tolist())
    return Result(answers, labels, entropy, context, adapted, events, drift, named, outputs)
