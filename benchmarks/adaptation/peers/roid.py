"""ROID: weighted self-training that stays near the source.

Settings are those published for CIFAR-10-C in mariodoebler/test-time-adaptation, the authors' own:
batches of 200, one step a batch, Adam at 1e-3 on scales and shifts of the batch norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from benchmarks.adaptation.peers.base import (
    Peer,
    Source,
    copied,
    entropies,
    norm_affine,
    use_batch_statistics,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

TEMPERATURE = 1 / 3


class Roid:
    """Marsden et al. WACV 2024: weights by certainty and diversity, ensembling, prior correction.

    keep: share of the adapted weights that a step keeps; the rest is the source's.
    """

    def __init__(
        self, model: nn.Module, source: Source, learning_rate: float, keep: float = 0.99
    ) -> None:
        self.model = copied(model)
        use_batch_statistics(self.model)
        self.parameters = norm_affine(self.model)
        self.anchors = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.augment = source.augment
        self.keep = keep
        uniform = 1 / source.classes
        self.mean_prediction = self.anchors[0].new_full((source.classes,), uniform)

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Logits under the statistics of these frames, corrected for their classes."""
        return prior_corrected(self.model(frames))

    def adapt(self, frames: Tensor) -> Tensor:
        """Corrected logits from before the step, then one step and a little way back."""
        with torch.enable_grad():
            logits: Tensor = self.model(frames)
            loss = self._loss(frames, logits)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._return()
        return prior_corrected(logits.detach())

    def _loss(self, frames: Tensor, logits: Tensor) -> Tensor:
        weights = self.weights(logits.detach())
        kept = weights > 0
        views = self.model(self.augment(frames[kept]))
        losses = soft_likelihood_ratio(logits[kept]) + symmetric_cross_entropy(views, logits[kept])
        return (weights[kept] * losses).sum() / len(frames)

    def weights(self, logits: Tensor) -> Tensor:
        """Weight of each sample; 0 for those less diverse than the mean."""
        predictions = logits.softmax(1)
        likeness = functional.cosine_similarity(self.mean_prediction[None], predictions)
        diversity = rescaled(1 - likeness)
        weights = (diversity * rescaled(-entropies(logits)) / TEMPERATURE).exp()
        self.mean_prediction = 0.9 * self.mean_prediction + 0.1 * predictions.mean(0)
        return weights.masked_fill(diversity < diversity.mean(), 0.0)

    @torch.no_grad()
    def _return(self) -> None:
        """Weight ensembling with the source."""
        for parameter, anchor in zip(self.parameters, self.anchors, strict=True):
            parameter.mul_(self.keep).add_(anchor, alpha=1 - self.keep)


def rescaled(values: Tensor) -> Tensor:
    """From 0 to 1 within the batch; all 0 if they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(1e-12)


def soft_likelihood_ratio(logits: Tensor) -> Tensor:
    """Marsden et al.'s loss for each sample: p log(p / (1 - p)) with p up to 0.99, negated."""
    p = logits.softmax(1).clamp(max=0.99)
    return -(p * (p / (1 - p) + 1e-5).log()).sum(1)


def symmetric_cross_entropy(first: Tensor, second: Tensor) -> Tensor:
    """Mean of the cross-entropies both ways, for each sample; gradients go into both."""
    there = (second.softmax(1) * first.log_softmax(1)).sum(1)
    back = (first.softmax(1) * second.log_softmax(1)).sum(1)
    return -(there + back) / 2


def prior_corrected(logits: Tensor) -> Tensor:
    """Logits times the smoothed mean prediction of their batch.

    The authors' code multiplies logits, where a prior would multiply probabilities; their figures
    come from the code, so this does the same.
    """
    count, classes = logits.shape
    prior = logits.softmax(1).mean(0)
    smooth = max(1 / count, 1 / classes) / prior.max()
    corrected: Tensor = logits * ((prior + smooth) / (1 + smooth * classes))
    return corrected


PEERS: dict[str, Peer] = {"ROID": Peer(Roid, 1e-3, "Marsden et al., WACV 2024")}
