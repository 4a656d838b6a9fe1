"""How much of an answer is the frozen model's, as pure functions of both models' logits."""

from __future__ import annotations

import numpy as np

from edgemem.runtime.answers import Answers
from edgemem.runtime.logits import Logits, entropies, log_softmax

SHARES = 1000  # a share is a whole number of these, so that a state file keeps it exactly
LEAST_SHARE = 0.2  # below it, a second forward pass is not worth its time
NEWEST = 0.5  # weight of a batch against those before it
# Chosen in trials (docs/trials/constants.md).
EQUAL = 1.8  # times the frozen model's mean entropy: both answer alike
SHARPNESS = 4.0
FAR = 1.0  # root mean square of a whitened key, 1 for source batches: half the odds
HALF = 0.5  # a share that is worth telling
CERTAIN = 1e-3  # nats; certainty beyond it does not count


def frozen_share(own: Logits, frozen: Logits, distance: float) -> float:
    """Share of the frozen model, 0 to 1, that logits [n, classes] of a batch speak for.

    It follows from the ratio of mean entropies. Predictions under statistics that a batch of few
    classes has spoilt are far less certain than the frozen model's; those of a model that has
    adapted to a shift are not. Far from the source the frozen model can be wrong with great
    certainty, so its odds fall with the distance.
    """
    uncertain, certain = float(entropies(own).mean()), float(entropies(frozen).mean())
    ratio = uncertain / (EQUAL * max(certain, CERTAIN))
    odds = ratio**SHARPNESS / (1.0 + (distance / FAR) ** SHARPNESS)
    return _rounded(odds / (1.0 + odds)) if np.isfinite(odds) else 0.0


def is_surer(own: float, frozen: float, below: float) -> bool:
    """Whether a block may answer, by its mean entropy and the frozen model's, in nats.

    below: part of the frozen model's, found on source frames where the bundle was exported.
    """
    return not np.isfinite(frozen) or own < below * max(frozen, CERTAIN)


def chosen(own: Answers, frozen: Answers, share: float) -> Answers:
    """Of outputs that are no logits of classes, one model's: a mean of both may mean nothing."""
    return frozen if share >= HALF else own


def averaged(before: float, newest: float) -> float:
    """A share after one more batch of the same context: a single batch can mislead."""
    return _rounded(before + NEWEST * (newest - before))


def used(share: float) -> float:
    """The share that an answer is made with: 0 where it is too little to matter, never all."""
    return min(share, 1.0 - 1.0 / SHARES) if share >= LEAST_SHARE else 0.0


def blended(own: Logits, frozen: Logits, share: float) -> Logits:
    """Logarithms of the probabilities [n, classes] of both models together."""
    if share in (0.0, 1.0):
        return frozen if share else own
    both = np.logaddexp(log_softmax(own) + np.log1p(-share), log_softmax(frozen) + np.log(share))
    result: Logits = both.astype(np.float32)
    return result


def _rounded(share: float) -> float:
    return round(SHARES * share) / SHARES
