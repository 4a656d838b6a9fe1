"""The augmentation that every method gets: a shifted crop and a flip, as is usual on CIFAR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

PAD = 4  # pixels


def crop_and_flip(x: Tensor, generator: Generator) -> Tensor:
    """Each image [n, c, h, w] moved by up to 4 pixels, zeros outside, half of them flipped."""
    count, channels, height, width = x.shape
    padded = F.pad(x, (PAD,) * 4)
    down, right = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=generator)
    flipped = torch.rand((count, 1), generator=generator) < 0.5
    columns = torch.arange(width)
    columns = torch.where(flipped, width - 1 - columns, columns) + right
    rows = torch.arange(height) + down
    images = torch.arange(count)[:, None, None, None]
    planes = torch.arange(channels)[None, :, None, None]
    return padded[images, planes, rows[:, None, :, None], columns[:, None, None, :]]
