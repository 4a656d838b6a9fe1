"""Batch normalisation whose statistics can be the source's, the batch's, or a mix.

`mean = source + alpha * (target - source)`, the same for the variance (BN-alpha, Schneider et al.
2020, equation 1, with the weight given directly). The target is the batch, or what the block
remembers of its context, moved towards the batch. Source statistics are constants here: they are
never updated, and at `alpha = 0` they are used exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemem.models.remembered import MEAN, VAR, FrameMoments, frame_moments


class Settings:
    """What all norms of one adaptive model share during one forward pass.

    alpha: scalar tensor, the weight of the batch's statistics; None = source statistics only.
    batch_weight: scalar tensor, of the batch against what is remembered; None = nothing is.
    key: context key [2 * channels] of the batch, left by the first frozen norm.
    seen: per norm that remembers, the moments of every frame of the batch.
    plain: run the frozen model alone, with torch's own batch norm: the reference for law 4.
    """

    def __init__(self) -> None:
        self.plain = False
        self.clear()

    def clear(self) -> None:
        """Forget the last forward pass."""
        self.alpha: Tensor | None = None
        self.batch_weight: Tensor | None = None
        self.key: Tensor | None = None
        self.seen: dict[nn.Module, FrameMoments] = {}


def reduce_dims(x: Tensor) -> list[int]:
    """All dimensions but the channels."""
    return [0, *range(2, x.dim())]


def per_channel(v: Tensor, x: Tensor) -> Tensor:
    """[channels] -> a shape that broadcasts over x."""
    return v.view([1, -1] + [1] * (x.dim() - 2))


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance per channel, both [channels]."""
    dims = reduce_dims(x)
    mean = x.mean(dims)
    return mean, (x - per_channel(mean, x)).pow(2).mean(dims)


class MixedStatistics(nn.Module):
    """Source moments of one tensor and how the batch's are mixed in."""

    mean: Tensor
    var: Tensor

    def __init__(self, mean: Tensor, var: Tensor, settings: Settings) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("var", var.detach().clone())
        self._settings = [settings]  # in a list: shared, not a submodule, not in the state dict

    @property
    def settings(self) -> Settings:
        """The settings of the adaptive model that owns this norm."""
        return self._settings[0]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalise x with, both [channels]."""
        alpha, weight = self.settings.alpha, self.settings.batch_weight
        if alpha is None:
            return self.mean, self.var
        if weight is not None:
            return self._remembered(x, alpha, weight)
        mean, var = batch_moments(x)
        return self.mean + alpha * (mean - self.mean), self.var + alpha * (var - self.var)

    @property
    def normalizes(self) -> bool:
        """Whether moments are used at all, so that remembering them has an effect."""
        return True

    def make_remembering(self) -> None:
        """Give the block a place for the moments of its context, as differences to the source."""
        self.register_buffer(MEAN, torch.zeros_like(self.mean))
        self.register_buffer(VAR, torch.zeros_like(self.var))

    def _remembered(self, x: Tensor, alpha: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.settings.seen[self] = frame_moments(x, self.mean)
        mean, var = seen.pooled(x.new_full((x.shape[0],), 1.0) / x.shape[0])
        past_mean, past_var = getattr(self, MEAN), getattr(self, VAR)
        mean = past_mean + weight * (mean - past_mean)
        var = past_var + weight * (var - self.var - past_var)
        return self.mean + alpha * mean, self.var + alpha * var


class FrozenNorm(MixedStatistics):
    """A BatchNorm of the frozen model; its affine pair may belong to the block.

    The pair in the block is a difference to the frozen pair, so its zero value is zero.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, settings: Settings) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        super().__init__(norm.running_mean, norm.running_var, settings)
        ones, zeros = torch.ones_like(self.mean), torch.zeros_like(self.mean)
        self.register_buffer("weight", (norm.weight if norm.affine else ones).detach().clone())
        self.register_buffer("bias", (norm.bias if norm.affine else zeros).detach().clone())
        self.eps = norm.eps
        self.is_key = False
        self.weight_delta: nn.Parameter | None = None
        self.bias_delta: nn.Parameter | None = None

    def make_trainable(self) -> None:
        """Put the affine pair into the block."""
        self.weight_delta = nn.Parameter(torch.zeros_like(self.mean))
        self.bias_delta = nn.Parameter(torch.zeros_like(self.mean))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, ...] -> the same shape."""
        if self.settings.plain:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, eps=self.eps)
        if self.is_key:
            self.settings.key = self._key(x)
        mean, var = self.moments(x)
        weight, bias = self.weight, self.bias
        if self.weight_delta is not None and self.bias_delta is not None:
            weight, bias = weight + self.weight_delta, bias + self.bias_delta
        scale = weight / torch.sqrt(var + self.eps)
        return x * per_channel(scale, x) + per_channel(bias - mean * scale, x)

    def _key(self, x: Tensor) -> Tensor:
        """Shift and log-scale of the batch against the source, per channel [2 * channels]."""
        mean, var = batch_moments(x.detach())
        source = self.var + self.eps
        shift = (mean - self.mean) / torch.sqrt(source)
        return torch.cat([shift, 0.5 * torch.log((var + self.eps) / source)])
