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

from edgemem.models.norms.moments import (
    FrameMoments,
    batch_moments,
    distance_moments,
    per_channel,
    pooled_moments,
)
from edgemem.models.norms.remembered import MEAN, VAR


class PassSettings:
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

    def __init__(self, mean: Tensor, var: Tensor, settings: PassSettings) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.rows = 1  # of what is normalised, for each frame
        self.axis = 1  # of the channels; -1 where they come last
        self._settings = [settings]  # in a list: shared, not a submodule, not in the state dict

    @property
    def settings(self) -> PassSettings:
        """The settings of the adaptive model that owns this norm."""
        return self._settings[0]

    def moments(self, distance: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean, as a distance to the source mean, and variance + eps to normalise with; [channels].

        distance: [n, channels, ...] to the source mean. Not for source statistics.
        """
        alpha, weight = self.settings.alpha, self.settings.batch_weight
        shares = self.settings.frame_weights
        assert alpha is not None
        if weight is None:
            mean, var = (
                pooled_moments(distance, self.axis)
                if shares is None
                else self.frame_moments(distance).pooled(shares)
            )
            drift = var - self.var
        else:
            seen = self.settings.seen[self] = self.frame_moments(distance)
            frames = distance.shape[0] if self.rows == 1 else seen.mean.shape[0]
            if shares is None:
                shares = distance.new_full((frames,), 1.0) / frames
            mean, var = seen.pooled(shares)
            past_mean, past_var = getattr(self, MEAN), getattr(self, VAR)
            mean = past_mean + weight * (mean - past_mean)
            drift = past_var + weight * (var - self.var - past_var)
        return alpha * mean, (self.var + alpha * drift) + eps

    def frame_moments(self, distance: Tensor) -> FrameMoments:
        """Moments of each frame of the batch, by the distance to the source mean."""
        return distance_moments(distance, self.axis).joined(self.rows)

    def normalized(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float | Tensor) -> Tensor:
        """[n, channels, ...] -> the same shape, of deviation `weight` around `bias`."""
        if self.settings.alpha is None:
            scale = weight / torch.sqrt(self.var + eps)
            return x * self.spread(scale, x) + self.spread(bias - self.mean * scale, x)
        distance = x + self.spread(-self.mean, x)  # a sum, which convolutions take as their bias
        mean, var = self.moments(distance, eps)
        scale = weight / torch.sqrt(var)
        return distance * self.spread(scale, x) + self.spread(bias - mean * scale, x)

    def spread(self, v: Tensor, x: Tensor) -> Tensor:
        """[channels] -> a shape that broadcasts over what is normalised."""
        return per_channel(v, x, self.axis)

    @property
    def normalizes(self) -> bool:
        """Whether moments are used at all, so that remembering them has an effect."""
        return True

    def make_remembering(self) -> None:
        """Give the block a place for the moments of its context, as differences to the source."""
        self.register_buffer(MEAN, torch.zeros_like(self.mean))
        self.register_buffer(VAR, torch.zeros_like(self.var))


class AdaptingNorm(MixedStatistics):
    """A norm around source moments, with a pair in the block, that may give the context key."""

    def __init__(self, mean: Tensor, var: Tensor, settings: PassSettings) -> None:
        super().__init__(mean, var, settings)
        self.is_key = False
        self.weight_delta: nn.Parameter | None = None
        self.bias_delta: nn.Parameter | None = None

    @property
    def epsilon(self) -> float | Tensor:
        """What is added to variances."""
        raise NotImplementedError

    def make_trainable(self) -> None:
        """Put the affine pair into the block."""
        self.weight_delta = nn.Parameter(torch.zeros_like(self.mean))
        self.bias_delta = nn.Parameter(torch.zeros_like(self.mean))

    def note_key(self, x: Tensor) -> None:
        """Leave the context key of a batch [n, ...], if this norm gives it and runs first."""
        if self.is_key and self.settings.key is None:
            self.settings.key = self._key(x.detach() + self.spread(-self.mean, x))

    def _key(self, distance: Tensor) -> Tensor:
        """Shift and log-scale of the batch against the source, per channel [2 * channels]."""
        shares = self.settings.frame_weights
        if shares is not None and self.rows > 1:
            shares = (shares / self.rows).unsqueeze(1).expand(-1, self.rows).flatten()
        # In two passes: exact even for frames that are all alike.
        mean, var = batch_moments(distance, shares, self.axis)
        source = self.var + self.epsilon
        shift = mean / torch.sqrt(source)
        return torch.cat([shift, 0.5 * torch.log((var + self.epsilon) / source)])


class FrozenNorm(AdaptingNorm):
    """A BatchNorm of the frozen model; its affine pair may belong to the block.

    The pair in the block is a difference to the frozen pair, so its zero value is zero. The arrays
    of the source share their memory with the layer's, until source frames give moments of their
    own (`take_moments`): then `given_mean` and `given_var` are the layer's.
    """

    weight: Tensor
    bias: Tensor
    given_mean: Tensor | None
    given_var: Tensor | None

    def __init__(self, norm: nn.Module, settings: PassSettings, eps: float | None = None) -> None:
        mean, var = norm.running_mean, norm.running_var
        assert isinstance(mean, Tensor) and isinstance(var, Tensor)
        super().__init__(mean.detach(), var.detach(), settings)
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        weight = torch.ones_like(self.mean) if weight is None else weight.detach()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros_like(self.mean) if bias is None else bias.detach())
        self.eps = float(norm.eps) if eps is None else eps  # type: ignore[arg-type]
        self.register_buffer("given_mean", None)
        self.register_buffer("given_var", None)

    @property
    def epsilon(self) -> float:
        """The layer's."""
        return self.eps

    @property
    def running_mean(self) -> Tensor:
        """As torch's layer has it: some models read it."""
        return self.mean if self.given_mean is None else self.given_mean

    @property
    def running_var(self) -> Tensor:
        """As torch's layer has it."""
        return self.var if self.given_var is None else self.given_var

    @property
    def num_features(self) -> int:
        """As torch's layer has it."""
        return self.mean.numel()

    def take_moments(self, mean: Tensor, var: Tensor) -> None:
        """Take [channels] as the moments of the source; what the norm computes stays the same.

        The running ones of training are not those that the network in eval mode sees: frames were
        augmented, and weights moved (the train-test discrepancy of Touvron et al., 2019).
        """
        if self.given_mean is None or self.given_var is None:
            self.given_mean, self.given_var = self.mean, self.var
        self.mean, self.var = mean, var

    def around_source(self, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The frozen affine pair, as it has to be around the moments that were measured."""
        if self.given_mean is None or self.given_var is None:
            return weight, bias
        slope = weight / torch.sqrt(self.given_var + eps)
        return slope * torch.sqrt(self.var + eps), bias + slope * (self.mean - self.given_mean)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, ...] -> the same shape."""
        if self.settings.plain:
            moments = self.running_mean, self.running_var
            return F.batch_norm(x, *moments, self.weight, self.bias, eps=self.eps)
        return self.mixed(x, self.weight, self.bias, self.eps)

    def mixed(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """[n, c, ...] -> the same shape, by a frozen affine pair and what the block adds to it."""
        self.note_key(x)
        weight, bias = self.around_source(weight, bias, eps)
        if self.weight_delta is not None and self.bias_delta is not None:
            weight, bias = weight + self.weight_delta, bias + self.bias_delta
        return self.normalized(x, weight, bias, eps)


class InPlaceNorm(FrozenNorm):
    """A BatchNorm whose layer stays in the frozen model, for what it does besides.

    See `norm_calls`.

    Its source arrays are the layer's, so they are not written a second time.
    """

    def __init__(self, norm: nn.Module, settings: PassSettings, eps: float) -> None:
        super().__init__(norm, settings, eps)
        self._layer = [norm]
        self._non_persistent_buffers_set.update(self._buffers)

    def take_moments(self, mean: Tensor, var: Tensor) -> None:
        """As of any norm; the measured ones are written, as the layer has others."""
        super().take_moments(mean, var)
        self._non_persistent_buffers_set.difference_update({"mean", "var"})

    @property
    def layer(self) -> nn.Module:
        """The layer in the frozen model."""
        return self._layer[0]

    def forward(  # type: ignore[override]
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """[n, c, ...] -> the same shape; the pair and eps as the layer has called with them."""
        weight = torch.ones_like(self.mean) if weight is None else weight
        return self.mixed(x, weight, torch.zeros_like(self.mean) if bias is None else bias, eps)
