"""Small networks with BatchNorm, one for each kind of output, and one with an LSTM without any."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 16


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class UNet(nn.Module):
    """Two levels (Ronneberger et al., MICCAI 2015): frames [n, 3, h, w] -> [n, outputs, h, w]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(3, WIDTH), _block(WIDTH, WIDTH))
        self.middle = nn.Sequential(_block(WIDTH, 2 * WIDTH, 2), _block(2 * WIDTH, 2 * WIDTH))
        self.coarse = nn.Sequential(_block(2 * WIDTH, 4 * WIDTH, 2), _block(4 * WIDTH, 4 * WIDTH))
        self.rise = nn.ConvTranspose2d(4 * WIDTH, 2 * WIDTH, 2, 2)
        self.middle_again = _block(4 * WIDTH, 2 * WIDTH)
        self.rise_again = nn.ConvTranspose2d(2 * WIDTH, WIDTH, 2, 2)
        self.fine_again = _block(2 * WIDTH, WIDTH)
        self.head = nn.Conv2d(WIDTH, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of every pixel."""
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.rise(self.coarse(middle))
        middle = self.rise_again(self.middle_again(torch.cat([middle, coarse], 1)))
        answer: Tensor = self.head(self.fine_again(torch.cat([fine, middle], 1)))
        return answer


class Tower(nn.Module):
    """Convolutions, then the mean or the largest of every channel: [n, 3, h, w] -> [n, outputs]."""

    def __init__(self, outputs: int, *, largest: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, WIDTH), _block(WIDTH, 2 * WIDTH, 2), _block(2 * WIDTH, 4 * WIDTH, 2),
            _block(4 * WIDTH, 4 * WIDTH),
        )  # fmt: skip
        self.pool = nn.AdaptiveMaxPool2d(1) if largest else nn.AdaptiveAvgPool2d(3)
        self.head = nn.Linear(4 * WIDTH * (1 if largest else 9), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of every frame."""
        answer: Tensor = self.head(self.pool(self.body(x)).flatten(1))
        return answer


class Reader(nn.Module):
    """Columns of a line, for CTC: [n, 3, 16, 4 t] -> [n, t, outputs]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, WIDTH), _block(WIDTH, 2 * WIDTH, 2), _block(2 * WIDTH, 4 * WIDTH, 2),
            nn.Conv2d(4 * WIDTH, 4 * WIDTH, (4, 3), padding=(0, 1), bias=False),
            nn.BatchNorm2d(4 * WIDTH), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the blank and of ten digits at every step."""
        answer: Tensor = self.head(self.body(x).squeeze(2).transpose(1, 2))
        return answer


class Autoencoder(nn.Module):
    """Through a narrow waist and back: [n, 3, 24, 24] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            _block(3, WIDTH, 2), _block(WIDTH, WIDTH, 2), _block(WIDTH, WIDTH, 2)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            nn.ConvTranspose2d(WIDTH, 3, 2, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The frames, made again."""
        answer: Tensor = self.up(self.down(x))
        return answer


class Listener(nn.Module):
    """An LSTM over log-mel features [n, 40, 64], two windows a step: -> [n, outputs]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.front = nn.Linear(80, 64)
        self.recurrent = nn.LSTM(64, 64, batch_first=True)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the digits."""
        steps = x.transpose(1, 2).reshape(-1, 32, 80)
        heard, _ = self.recurrent(torch.relu(self.front(steps)))
        answer: Tensor = self.head(heard.mean(1))
        return answer
