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

from edgemem.models.moments import (
    FrameMoments,
    batch_moments,
    distance_moments,
    per_channel,
    pooled_moments,
)
from edgemem.models.remembered import MEAN, VAR


class Settings:
    """What all norms of one adaptive model share during one forward pass.

    alpha: scalar tensor, the weight of the batch's statistics; None = source statistics only.
    batch_weight: scalar tensor, of the batch against what is remembered; None = nothing is.
    frame_weights: [n], of sum one, of each frame in the batch's statistics; None = all alike.
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
        self.frame_weights: Tensor | None = None
        self.key: Tensor | None = None
        self.seen: dict[nn.Module, FrameMoments] = {}


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

    def moments(self, distance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Mean, as a distance to the source mean, and variance + eps to normalise with; [channels].

        distance: [n, channels, ...] to the source mean. Not for source statistics.
        """
        alpha, weight = self.settings.alpha, self.settings.batch_weight
        shares = self.settings.frame_weights
        assert alpha is not None
        if weight is None:
            mean, var = (
                pooled_moments(distance)
                if shares is None
                else distance_moments(distance).pooled(shares)
            )
            drift = var - self.var
        else:
            seen = self.settings.seen[self] = distance_moments(distance)
            frames = distance.shape[0]
            if shares is None:
                shares = distance.new_full((frames,), 1.0) / frames
            mean, var = seen.pooled(shares)
            past_mean, past_var = getattr(self, MEAN), getattr(self, VAR)
            mean = past_mean + weight * (mean - past_mean)
            drift = past_var + weight * (var - self.var - past_var)
        return alpha * mean, (self.var + alpha * drift) + eps

    def normalized(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """[n, channels, ...] -> the same shape, of deviation `weight` around `bias`."""
        if self.settings.alpha is None:
            scale = weight / torch.sqrt(self.var + eps)
            return x * per_channel(scale, x) + per_channel(bias - self.mean * scale, x)
        distance = x + per_channel(-self.mean, x)  # a sum, which convolutions take as their bias
        mean, var = self.moments(distance, eps)
        scale = weight / torch.sqrt(var)
        return distance * per_channel(scale, x) + per_channel(bias - mean * scale, x)

    @property
    def normalizes(self) -> bool:
        """Whether moments are used at all, so that remembering them has an effect."""
        return True

    def make_remembering(self) -> None:
        """Give the block a place for the moments of its context, as differences to the source."""
        self.register_buffer(MEAN, torch.zeros_like(self.mean))
        self.register_buffer(VAR, torch.zeros_like(self.var))


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
            self.settings.key = self._key(x.detach() + per_channel(-self.mean, x))
        weight, bias = self.weight, self.bias
        if self.weight_delta is not None and self.bias_delta is not None:
            weight, bias = weight + self.weight_delta, bias + self.bias_delta
        return self.normalized(x, weight, bias, self.eps)

    def _key(self, distance: Tensor) -> Tensor:
        """Shift and log-scale of the batch against the source, per channel [2 * channels]."""
        # In two passes: exact even for frames that are all alike.
        mean, var = batch_moments(distance, self.settings.frame_weights)
        source = self.var + self.eps
        shift = mean / torch.sqrt(source)
        return torch.cat([shift, 0.5 * torch.log((var + self.eps) / source)])
