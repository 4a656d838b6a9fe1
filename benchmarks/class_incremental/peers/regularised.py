"""Peers without stored samples that hold the network back: LwF and EWC."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.class_incremental.peers.base import Batch, Classifier, Start
from edgemem.models.data import Frames, to_float
from edgemem.models.prototypes.model import evaluating

LWF_TEMPERATURE = 2.0  # Li & Hoiem, section 3
FISHER_BATCH = 50


class LwF(Classifier):
    """Learning without forgetting (Li & Hoiem, ECCV 2016): the old network's answers are kept.

    weight: of the distillation; 1 in the paper, 3 in the settings that Mammoth releases for this
    data.
    """

    def __init__(self, start: Start, weight: float) -> None:
        super().__init__(start)
        self.weight = weight
        self.teacher: nn.Module | None = None

    def before(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """The network so far is the teacher; the first task has none."""
        if len(self.tasks) > 1:
            self.teacher = copy.deepcopy(self.network).eval().requires_grad_(False)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy and distillation."""
        logits = self.network(batch.x)
        loss = self.own_loss(logits, batch)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            old = self.teacher(batch.x)
        return loss + self.weight * distillation(logits, old, self.heads[:-1], LWF_TEMPERATURE)


def distillation(
    logits: Tensor, old: Tensor, heads: Sequence[Sequence[int]], temperature: float
) -> Tensor:
    """Cross-entropy between old and new answers at a temperature, summed over heads.

    logits, old: [n, classes]. Li & Hoiem, equations 2 and 3: no factor of temperature squared.
    """
    total = logits.new_zeros(())
    for head in heads:
        columns = torch.tensor(head, device=logits.device)
        target = torch.softmax(old[:, columns] / temperature, 1)
        log_answer = torch.log_softmax(logits[:, columns] / temperature, 1)
        total = total - (target * log_answer).sum(1).mean()
    return total


class EWC(Classifier):
    """Elastic weight consolidation (Kirkpatrick et al., PNAS 2017), one penalty for all old tasks.

    Online as in Schwarz et al., ICML 2018, with nothing forgotten: Fisher information adds up, and
    the anchor is the last task's end. weight: times `sum F (w - anchor)^2`; 10 in the settings that
    Mammoth releases for this data.
    """

    def __init__(self, start: Start, weight: float) -> None:
        super().__init__(start)
        self.weight = weight
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy and penalty."""
        loss = super().loss(batch)
        for name, parameter in self.network.named_parameters():
            if name in self.fisher:
                moved = (parameter - self.anchor[name]) ** 2
                loss = loss + self.weight * (self.fisher[name] * moved).sum()
        return loss

    def after(self, frames: Frames, labels: NDArray[np.int64]) -> None:
        """Add the task's Fisher information, and anchor the weights where they are."""
        parameters = dict(self.network.named_parameters())
        with evaluating(self.network):
            found = fisher_information(self.network, frames, labels, self.heads[-1], self.device)
        for name, value in found.items():
            self.fisher[name] = self.fisher.get(name, torch.zeros_like(value)) + value
            self.anchor[name] = parameters[name].detach().clone()


def fisher_information(
    network: nn.Module,
    frames: Frames,
    labels: NDArray[np.int64],
    head: Sequence[int],
    device: torch.device,
) -> dict[str, Tensor]:
    """Mean over frames of the squared gradient of log p(label): the empirical diagonal.

    The network is in eval mode, so that frames do not see each other.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    columns = torch.tensor(head, device=device)

    def log_likelihood(weights: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        logits = functional_call(network, weights, (x[None],))[0, columns]
        return (torch.log_softmax(logits, 0) * target).sum()

    gradients = vmap(grad(log_likelihood), (None, 0, 0))
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for start in range(0, len(frames), FISHER_BATCH):
        part = slice(start, start + FISHER_BATCH)
        y = torch.from_numpy(labels[part]).to(device)
        found = gradients(
            parameters, to_float(frames[part]).to(device), (y[:, None] == columns).float()
        )
        for name, value in found.items():
            total[name] += (value**2).sum(0)
    return {name: value / len(frames) for name, value in total.items()}
