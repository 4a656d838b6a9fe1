"""Logits, and what they say without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


def log_softmax(logits: Logits) -> Logits:
    """Logarithms of the probabilities, [n, classes]."""
    shifted = logits - logits.max(1, keepdims=True)
    found: Logits = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


def entropies(logits: Logits) -> NDArray[np.float32]:
    """Entropy of each prediction in nats, [n]."""
    log_p = log_softmax(logits)
    entropy: NDArray[np.float32] = -(np.exp(log_p) * log_p).sum(1)
    return entropy
