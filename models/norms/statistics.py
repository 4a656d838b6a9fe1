"""Batch normalisation whose statistics can be the source's, the batch's, or a mix.

`mean = source + alpha * (target - source)`, the same for the variance (BN-alpha, Schneider et al.
2020, equation 1, with the weight given directly). The target is the batch, or what the block
remembers of its context, moved towards the batch. Source statistics are constants here: they are
never updated, and at `alpha = 0` they are used exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgemem.models.joint_arrays import Joint
from edgemem.models.norms.around_batch import Around, around_batch
from edgemem.models.norms.moments import (
    FrameMoments,
    batch_moments,
    distance_moments,
    per_channel,
    pooled_moments,
)
from edgemem.models.norms.remembered import MEAN, VAR


class Past(NamedTuple):
    """Moments to normalise with, but for the batch: [channels], and the batch's weight, a scalar.

    mean: a distance to the source mean.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor


class PassSettings:
    """What all norms of one adaptive model share during one forward pass.

    alpha: scalar tensor, the weight of the batch's statistics; None = source statistics only.
    frame_weights: [n], of sum one, of each frame in the batch's statistics; None = all alike.
    key: context key [2 * channels] of the batch, left by the first frozen norm.
    key_shift: what a key gets besides, in all passes; None = nothing.
    seen: per norm that remembers, the moments of every frame of the batch.
    past: per norm that remembers, what its moments are without the batch, and the batch's weight.
    plain: run the frozen model alone, with torch's own batch norm: the reference for law 4.
    """

    def __init__(self) -> None:
        self.plain = False
        self.key_shift: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the last forward pass."""
        self.alpha: Tensor | None = None
        self.frame_weights: Tensor | None = None
        self.key: Tensor | None = None
        self.seen: dict[nn.Module, FrameMoments] = {}
        self.past: dict[nn.Module, Past] = {}


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
        mean, var, past = self._of_batch(distance)
        return past.weight * mean + past.mean, (past.weight * var + past.var) + eps

    def _of_batch(self, distance: Tensor) -> tuple[Tensor, Tensor, Past]:
        """Mean and variance of the batch, [channels], and what they are added to."""
        shares, alpha = self.settings.frame_weights, self.settings.alpha
        past = self.settings.past.get(self)
        if past is not None:
            seen = self.settings.seen[self] = self.frame_moments(distance)
            return *seen.pooled(shares), past
        assert alpha is not None
        past = Past(torch.zeros_like(self.mean), self.var - alpha * self.var, alpha)
        if shares is None:
            return *pooled_moments(distance, self.axis), past
        return *self.frame_moments(distance).pooled(shares), past

    def frame_moments(self, distance: Tensor) -> FrameMoments:
        """Moments of each frame of the batch, by the distance to the source mean."""
        return distance_moments(distance, self.axis).joined(self.rows)

    def normalized(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float | Tensor) -> Tensor:
        """[n, channels, ...] -> the same shape, of deviation `weight` around `bias`."""
        if self.settings.alpha is None:
            scale = weight / torch.sqrt(self.var + eps)
            return x * self.spread(scale, x) + self.spread(bias - self.mean * scale, x)
        distance = x + self.spread(-self.mean, x)  # a sum, which convolutions take as their bias
        mean, var, past = self._of_batch(distance)
        shift = past.weight * mean + past.mean
        deviation = torch.sqrt((past.weight * var + past.var) + eps)
        around = Around(mean, shift, deviation, past.weight)
        return around_batch(distance, (weight, bias), around, self._row_weights(), self.axis)

    def _row_weights(self) -> Tensor | None:
        """Of each row of what is normalised, where the frames of a batch are not all alike."""
        shares = self.settings.frame_weights
        if shares is None or self.rows == 1:
            return shares
        return (shares / self.rows).unsqueeze(1).expand(-1, self.rows).flatten()

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


def past_of(
    norms: Mapping[str, MixedStatistics], alpha: Tensor | None, batch_weight: Tensor | None
) -> dict[nn.Module, Past]:
    """Per norm that remembers, source + alpha * (remembered - source), but for the batch's part.

    alpha, batch_weight: None = nothing is remembered.
    """
    norms = {name: norm for name, norm in norms.items() if norm.normalizes}
    if alpha is None or batch_weight is None or not norms:
        return {}
    weight = alpha * batch_weight
    rest = alpha - weight
    joint = Joint({name: norm.mean for name, norm in norms.items()})

    def vector(kind: str) -> Tensor:
        return joint.vector({name: getattr(norm, kind) for name, norm in norms.items()})

    source = vector("var")
    mean = joint.parts(rest * vector(MEAN))
    var = joint.parts(source - weight * source + rest * vector(VAR))
    return {norm: Past(mean[name], var[name], weight) for name, norm in norms.items()}


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
            key, shift = self._key(x.detach() + self.spread(-self.mean, x)), self.settings.key_shift
            self.settings.key = key if shift is None else key + shift

    def _key(self, distance: Tensor) -> Tensor:
        """Shift and log-scale of the batch against the source, per channel [2 * channels]."""
        # In two passes: exact even for frames that are all alike.
        mean, var = batch_moments(distance, self._row_weights(), self.axis)
        source = self.var + self.epsilon
        shift = mean / torch.sqrt(source)
        return torch.cat([shift, 0.5 * torch.log((var + self.epsilon) / source)])
