"""A norm that changes nothing until moments differ from the source's.

Behind a convolution, a linear layer or a LayerNorm it normalises around the moments that source
frames have there, and returns to them: at source statistics it is the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemem.models.norms.statistics import AdaptingNorm, PassSettings

EPS = 1e-5  # of the mean variance of all channels: activations have no scale of their own


class IdentityNorm(AdaptingNorm):
    """Around measured moments; its pair in the block is relative to the source's deviation.

    Before source frames have been measured (`take_moments`) it lets everything pass.
    """

    def __init__(self, channels: int, axis: int, settings: PassSettings) -> None:
        super().__init__(torch.zeros(channels), torch.ones(channels), settings)
        self.axis = axis
        self.known = False
        self.active = True  # while sites are chosen, some are passed over

    @property
    def epsilon(self) -> Tensor:
        """A small part of what the source varies by."""
        return EPS * self.var.mean()

    @property
    def normalizes(self) -> bool:
        """Without known source moments it does not."""
        return self.known

    def take_moments(self, mean: Tensor, var: Tensor) -> None:
        """Take [channels] as the moments of the source."""
        self.mean, self.var = mean, var
        self.known = True

    def forward(self, x: Tensor) -> Tensor:
        """What a module returns -> the same shape; x itself at zero and source statistics."""
        if self.settings.plain or not (self.known and self.active):
            return x
        self.note_key(x)
        eps = self.epsilon
        deviation = torch.sqrt(self.var + eps)
        weight, bias = deviation, self.mean
        if self.weight_delta is not None and self.bias_delta is not None:
            weight = deviation * (1.0 + self.weight_delta)
            bias = self.mean + deviation * self.bias_delta
        return self.normalized(x, weight, bias, eps)
