"""Wide ResNet (Zagoruyko & Komodakis 2016, table 1), pre-activation blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv twice, with a 1x1 convolution in the shortcut where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.changes = in_channels != out_channels
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if self.changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h/stride, w/stride]."""
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut: Tensor = self.shortcut(activated if self.changes else x)
        total: Tensor = y + shortcut
        return total


class WideResNet(nn.Module):
    """Depth 6 * blocks + 4, width factor `widen`."""

    input_shape = (3, 32, 32)

    def __init__(self, blocks: int, widen: int, classes: int = 10) -> None:
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.block1 = _stage(widths[0], widths[1], blocks, 1)
        self.block2 = _stage(widths[1], widths[2], blocks, 2)
        self.block3 = _stage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, 3, 32, 32] -> logits [n, classes]."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    rest = [PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def wrn40_2(classes: int = 10) -> WideResNet:
    """WRN-40-2: 2.2 M parameters."""
    return WideResNet(6, 2, classes)
