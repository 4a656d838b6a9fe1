"""Methods without any learning: the source model, and the statistics of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.adaptation.peers.base import Peer, Source, copied, use_batch_statistics

if TYPE_CHECKING:
    from torch import Tensor, nn


class Frozen:
    """The source model as it was trained."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copied(model)

    @torch.no_grad()
    def predict(self, frames: Tensor) -> Tensor:
        """Logits of the model."""
        logits: Tensor = self.model(frames)
        return logits

    def adapt(self, frames: Tensor) -> Tensor:
        """The same logits: nothing is learnt."""
        return self.predict(frames)


class BatchStatistics(Frozen):
    """Nado et al. 2020 (prediction-time batch normalisation), Schneider et al. NeurIPS 2020.

    Every batch norm takes mean and variance of the frames it is given; the source's have no weight
    (N = 0 where Schneider et al. mix both).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        use_batch_statistics(self.model)


def _frozen(model: nn.Module, source: Source, learning_rate: float) -> Frozen:
    return Frozen(model)


def _batch_statistics(model: nn.Module, source: Source, learning_rate: float) -> BatchStatistics:
    return BatchStatistics(model)


PEERS: dict[str, Peer] = {
    "source": Peer(_frozen, 0.0, "the model before deployment"),
    "batch statistics": Peer(
        _batch_statistics,
        0.0,
        "Nado et al., arXiv 2006.10963, 2020; Schneider et al., NeurIPS 2020",
    ),
}
