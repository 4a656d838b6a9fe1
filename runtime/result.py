"""What predict and step return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Event:
    """Something that happened besides predicting.

    kind: "adapted" (the block changed), "unreliable" (the step found nothing to learn from),
    "skipped" (a non-finite block was thrown away), "restored" (the last good block came back),
    "frozen" (the frozen model answered instead), "context" (another context began), "damaged" (a
    written block could not be read; its context starts afresh).
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Result:
    """Predictions for n frames, all made before any update on them.

    logits: [n, classes] float32. labels: [n] int64, the argmax. entropy: [n] float32, in nats.
    context: name of the context whose block was used. adapted: whether the block changed in this
    call. events: what else happened, in order.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    entropy: NDArray[np.float32]
    context: str
    adapted: bool
    events: tuple[Event, ...]


def make_result(logits: NDArray[np.float32], context: str, events: list[Event]) -> Result:
    """Complete logits [n, classes] to a result."""
    adapted = any(event.kind == "adapted" for event in events)
    return Result(logits, logits.argmax(1), entropies(logits), context, adapted, tuple(events))


def entropies(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of each prediction in nats, [n]."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    entropy: NDArray[np.float32] = -(np.exp(log_p) * log_p).sum(1)
    return entropy
