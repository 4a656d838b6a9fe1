"""The BatchNorms of a frozen model, around the moments of their source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemem.models.norms.statistics import AdaptingNorm, PassSettings


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
