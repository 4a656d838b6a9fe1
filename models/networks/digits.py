"""The network of the demo: 8x8 grey digits."""

from __future__ import annotations

from torch import Tensor, nn


class Digits(nn.Module):
    """Three 3x3 convolution blocks, mean, linear classifier."""

    input_shape = (1, 8, 8)

    def __init__(self, classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.stem = _block(1, width, 1)
        self.layer1 = nn.Sequential(_block(width, width, 1), _block(width, width, 1))
        self.layer2 = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width, 1))
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, 1, 8, 8] -> logits [n, classes]."""
        logits: Tensor = self.classifier(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))
        return logits


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def digits(classes: int = 10) -> Digits:
    """The demo's classifier of 8x8 handwritten digits."""
    return Digits(classes)
