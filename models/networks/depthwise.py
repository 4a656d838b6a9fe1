"""A small network of inverted residuals (Sandler et al. 2018, MobileNetV2, figure 4b)."""

from __future__ import annotations

from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down; with a shortcut where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = in_channels * expand
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h/stride, w/stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class Depthwise(nn.Module):
    """Stem, five inverted residuals, mean, linear classifier."""

    input_shape = (3, 32, 32)

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.features = nn.Sequential(
            InvertedResidual(16, 16, 1, 2),
            InvertedResidual(16, 24, 2, 4),
            InvertedResidual(24, 24, 1, 4),
            InvertedResidual(24, 32, 2, 4),
            InvertedResidual(32, 32, 1, 4),
        )
        self.classifier = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, 3, 32, 32] -> logits [n, classes]."""
        logits: Tensor = self.classifier(self.features(self.stem(x)).mean((2, 3)))
        return logits


def depthwise(classes: int = 10) -> Depthwise:
    """A MobileNet-style network for 32x32 images."""
    return Depthwise(classes)
