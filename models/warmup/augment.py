"""Augmentation during warm-up: appearance only, never geometry (EcoTTA, community recipe)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from edgemem.models.data import Frames, to_float

GREY = (0.299, 0.587, 0.114)
SOME = 1024  # frames that moments of signals are taken from


def augmentation(frames: Frames) -> Callable[[Tensor, Generator], Tensor]:
    """What changes batches [n, c, ...] of such frames.

    Pictures by appearance, signals by gain, offset and noise.

    Pictures are uint8, or float32 within 0 to 1, of 1 or 3 channels; their shape alone would not
    tell, for a spectrogram has the same.
    """
    if frames.ndim == 4 and frames.shape[1] in (1, 3) and _in_range(frames):
        return augment_pictures
    places = np.linspace(0, len(frames) - 1, min(SOME, len(frames))).astype(np.int64)
    values = to_float(frames[places]).movedim(1, 0).flatten(1)
    shape = (1, -1, *[1] * (frames.ndim - 2))
    return Signals(values.mean(1).view(shape), values.std(1).view(shape))


def _in_range(frames: Frames) -> bool:
    return frames.dtype == np.uint8 or bool(frames.min() >= 0 and frames.max() <= 1)


@dataclass(frozen=True)
class Signals:
    """Jitter of signals, in units of the source's own mean and deviation per channel.

    [1, c, 1, ...], so that it is the same wherever zero lies and whatever the unit is.
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """A gain around the mean, an offset and noise, on half of the frames.

        Gain of up to 40 %, offset of up to 0.4 and noise of up to 0.1 deviations.
        """
        offset = 0.4 * (2 * torch.rand(_ones(x), generator=generator) - 1)
        level = 0.1 * torch.rand(_ones(x), generator=generator)
        noise = offset + level * torch.randn(x.shape, generator=generator)
        changed = self.mean + (x - self.mean) * _factor(x, generator) + self.deviation * noise
        return _where(0.5, changed, x, generator)


def augment_pictures(x: Tensor, generator: Generator) -> Tensor:
    """Jitter pictures [n, 1 or 3, h, w] in [0, 1], which they do not leave."""
    x = _where(0.4, _colour_jitter(x, generator), x, generator)
    x = _where(0.2, _blur(x, generator), x, generator)
    if x.shape[1] == 3:
        x = _where(0.1, _grey(x).expand_as(x), x, generator)
    return x


def _ones(x: Tensor) -> list[int]:
    return [x.shape[0]] + [1] * (x.dim() - 1)


def _where(probability: float, changed: Tensor, x: Tensor, generator: Generator) -> Tensor:
    return torch.where(torch.rand(_ones(x), generator=generator) < probability, changed, x)


def _factor(x: Tensor, generator: Generator, spread: float = 0.4) -> Tensor:
    return 1.0 + spread * (2 * torch.rand(_ones(x), generator=generator) - 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _colour_jitter(x: Tensor, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation by up to 40 %, hue by a rotation of up to 36 degrees."""
    x = (x * _factor(x, generator)).clamp(0, 1)
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * _factor(x, generator)).clamp(0, 1)
    grey = _grey(x)
    x = grey + (x - grey) * _factor(x, generator)
    if x.shape[1] == 3:
        x = _rotate_hue(
            x, 0.1 * 2 * torch.pi * (2 * torch.rand(x.shape[0], generator=generator) - 1)
        )
    return x.clamp(0, 1)


def _rotate_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours about the grey axis (Rodrigues' formula with axis (1, 1, 1) / sqrt 3)."""
    cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
    crossed = (x.roll(1, 1) - x.roll(2, 1)) / 3**0.5
    return x * cos + crossed * sin + x.mean(1, keepdim=True) * (1 - cos)


def _blur(x: Tensor, generator: Generator) -> Tensor:
    """3x3 Gaussian blur, sigma 0.1 to 2 per image."""
    sigma = 0.1 + 1.9 * torch.rand(_ones(x), generator=generator)
    side = torch.exp(-0.5 / sigma**2)
    for dim in (2, 3):
        pad = (0, 0, 1, 1) if dim == 2 else (1, 1, 0, 0)
        padded = F.pad(x, pad, mode="replicate")
        size = x.shape[dim]
        low, high = padded.narrow(dim, 0, size), padded.narrow(dim, 2, size)
        x = (x + side * (low + high)) / (1 + 2 * side)
    return x
