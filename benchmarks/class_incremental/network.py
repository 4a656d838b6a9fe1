"""A narrow network of ResNet-18's family: four stages of basic blocks with projecting shortcuts.

He et al., CVPR 2016, table 1: a stem of stride 2 and a max pooling of stride 2, then channels
double from stage to stage. With 20 base channels it is continual learning's "reduced ResNet-18"
(Lopez-Paz & Ranzato, NeurIPS 2017). For images of 32 pixels the stem's kernel is 3x3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, before, h, w] -> [n, channels, h/stride, w/stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Encoder(nn.Module):
    """Images -> features; `size` says how long these are."""

    def __init__(self, channels: int, blocks: int, pool: bool) -> None:
        super().__init__()
        self.size = 8 * channels
        self.pool = pool
        self.conv1 = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        before, stages = channels, []
        for stage in range(4):
            for block in range(blocks):
                after = channels << stage
                stages.append(Block(before, after, 2 if stage and not block else 1))
                before = after
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 32, 32] float32 in [0, 1] -> [n, size], not negative."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        features: Tensor = self.stages(x).mean((2, 3))
        return features


def encoder(channels: int, blocks: int, pool: bool, seed: int) -> Encoder:
    """An encoder whose weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Encoder(channels, blocks, pool)
    # Convolutions of few channels are a quarter faster on a processor with channels last.
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
