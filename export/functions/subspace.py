"""Alignment of the features that numbers are made from, along the directions that matter to them.

Test-time adaptation for regression by subspace alignment (SSA, Adachi et al., ICLR 2025): features
of a regressor vary along few directions, so moments of channels compare noise; those of principal
components do not, and each counts by what it moves in the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgemem.errors import ExportError
from edgemem.export.functions.objective import SMALLEST_VAR, Loss
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.adaptive.outputs import Output
from edgemem.models.data import to_float
from edgemem.models.tensor_rows import source_rows, split

MOST = 100  # directions, as in section 4.1
LEAST_SHARE = 1e-4  # of the variance along the first direction
CHUNK = 64
NAME = "objective 'subspace_alignment'"


@dataclass(frozen=True)
class Subspace:
    """Principal components of source features.

    Attributes:
        layer: whose inputs the features are.
        mean: [size]; basis: [size, directions]; var: [directions], along each.
        weights: [directions], 1 + |W v| (equation 7), the length of the answer's change where there
            are several numbers.
    """

    layer: nn.Linear
    mean: Tensor
    basis: Tensor
    var: Tensor
    weights: Tensor

    def distance(self, features: Tensor) -> Tensor:
        """Weighed divergence of features [n, size] from the source's, in nats.

        Both are taken for Gaussians with independent directions; the divergences of one from the
        other and back are added (equations 5 and 6), in which the logarithms cancel.
        """
        along = (features - self.mean) @ self.basis
        mean = along.mean(0)
        away = along - mean
        var = (away * away).sum(0) / (features.shape[0] - 1) + SMALLEST_VAR * self.var
        square = mean * mean
        both = 0.5 * ((var + square) / self.var + (self.var + square) / var - 2.0)
        return (self.weights * both).sum()

    def aligned(
        self, forward: Callable[[], tuple[Output, Tensor]]
    ) -> tuple[tuple[Output, Tensor], Callable[[Loss], Loss]]:
        """A forward pass, and what adds the distance of its features to a loss."""
        with features_of(self.layer) as seen:
            found = forward()
        distance = self.distance(seen[0])

        def extended(loss: Loss) -> Loss:
            stats = {**loss.stats, "distance": distance.detach()}
            value = loss.value + distance
            return Loss(value, loss.update & torch.isfinite(value), stats)

        return found, extended


def subspace_of_source(model: AdaptiveModel) -> Subspace:
    """The directions in which the frozen model's features of source frames vary.

    Raises:
        ExportError: no linear layer makes the output, or the model keeps too few source frames.
    """
    layer, frames = model.classifier, source_rows(model)
    if layer is None:
        raise ExportError(
            NAME,
            "needs a linear layer that makes the one output, and none does",
            "Use --objective alignment",
        )
    if frames is None or len(frames) < 2:
        raise ExportError(
            NAME, "needs source frames that the model keeps", "Pass --source, or observe_source"
        )
    with torch.no_grad(), features_of(layer) as seen:
        for part in split(to_float(frames), CHUNK):
            model.frozen_logits(part)
    features = torch.cat(seen).double()
    mean = features.mean(0)
    var, basis = torch.linalg.eigh(torch.cov(features.T).reshape(2 * mean.shape))
    kept = var > LEAST_SHARE * var[-1].clamp(min=SMALLEST_VAR)
    var, basis = var[kept][-MOST:], basis[:, kept][:, -MOST:]
    if not len(var):
        raise ExportError(
            NAME, "finds the same features in all source frames", "Pass source frames that differ"
        )
    weights = 1.0 + torch.linalg.vector_norm(layer.weight.detach().double() @ basis, dim=0)
    return Subspace(layer, *(value.float() for value in (mean, basis, var, weights)))
