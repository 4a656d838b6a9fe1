"""A 1-D convolution network for audio features or sensor windows."""

from __future__ import annotations

from torch import Tensor, nn


class Conv1d(nn.Module):
    """Strided convolution blocks over time, then a mean and a linear classifier."""

    def __init__(
        self, channels: int = 6, classes: int = 6, length: int = 128, width: int = 32
    ) -> None:
        super().__init__()
        self.input_shape = (channels, length)
        self.stem = _block(channels, width, 1)
        self.blocks = nn.Sequential(
            _block(width, width, 2), _block(width, 2 * width, 2), _block(2 * width, 2 * width, 2)
        )
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [n, channels, length] -> logits [n, classes]."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean(2))
        return logits


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 5, stride, 2, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.ReLU(),
    )


def conv1d(channels: int = 6, classes: int = 6, length: int = 128) -> Conv1d:
    """Four blocks of 32 to 64 channels."""
    return Conv1d(channels, classes, length)
