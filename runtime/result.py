"""What predict and step return."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RAILS = ("skipped", "restored", "reset", "frozen", "recovered", "still")  # kinds of guard rails
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened besides predicting.

    Attributes:
        kind: "adapted" (the block changed), "learnt" (labelled frames changed it), "familiar"
            (frames are like the source's: the frozen model answers and nothing is learnt),
            "unfamiliar" (no longer: the block answers and learns), "unreliable" (the step found
            nothing to learn from), "skipped" (a step's block was thrown away, or none was made, for
            something is wrong with it), "restored" (the last good block came back), "reset" (what
            the context learnt was dropped), "frozen" (the frozen model answers instead, or has half
            of the answer and more), "recovered" (a block is trusted again), "still" (frames without
            any difference), "context" (another context began), "damaged" (a commit, a written block
            or a shipped row could not be read, or does not fit: an earlier one is taken, and
            without any it counts as zero), "reading" (shipped rows are not there yet; the generic
            block predicts), "consolidated" (the root took its part of what a context learnt),
            "refused" (it did not, for another context would suffer), "evicted" (a written block had
            to make room), "unwritten" (the disk refused a commit; what was learnt stays in memory),
            "fallback" (an engine that was preferred fails; another one runs), "range" (frames are
            of another scale than source frames were; told once), "overflow" (an answer holds values
            that are no numbers, whichever model gives it; its label means nothing).
        message: what happened, in a sentence for people.
    """

    kind: str
    message: str


def tell(events: list[Event], kind: str, message: str, level: int = logging.INFO) -> None:
    """An event, and a line in the log."""
    log.log(level, "%s: %s", kind, message)
    events.append(Event(kind, message))


@dataclass(frozen=True)
class Result:
    """Predictions for n frames, all made before any update on them.

    Attributes:
        logits: [n, classes] float32; about -1e4 for a class that is not open.
        labels: [n] int64, the argmax.
        entropy: [n] float32, in nats.
        context: name of the context whose block was used.
        adapted: whether the block changed in this call.
        events: what else happened, in order.
        drift: distance of the last full batch from its context, in units in which a batch of source
            data is about one from the source; None where contexts are not told apart.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    entropy: NDArray[np.float32]
    context: str
    adapted: bool
    events: tuple[Event, ...]
    drift: float | None = None


def make_result(
    logits: NDArray[np.float32], context: str, events: list[Event], drift: float | None = None
) -> Result:
    """Complete logits [n, classes] to a result."""
    adapted = any(event.kind in ("adapted", "learnt") for event in events)
    labels, entropy = logits.argmax(1), entropies(logits)
    return Result(logits, labels, entropy, context, adapted, tuple(events), drift)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of the probabilities of logits [n, classes], each row by itself."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return log_p


def entropies(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of each prediction in nats, [n]."""
    log_p = log_softmax(logits)
    entropy: NDArray[np.float32] = -(np.exp(log_p) * log_p).sum(1)
    return entropy
