"""Networks for sound and sensors as people write them in plain torch."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def _keyword_net(classes: int) -> nn.Module:
    """The depthwise-separable network of MLPerf Tiny's keyword spotting (Zhang et al., 2017)."""

    def pair(channels: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]

    first = nn.Conv2d(1, 64, (10, 4), stride=2, padding=(5, 1), bias=False)
    blocks = [layer for _ in range(4) for layer in pair(64)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), *blocks, *head)


def _wave_net(classes: int) -> nn.Module:
    """M5 on raw sound (Dai et al., 2017)."""
    layers: list[nn.Module] = []
    before = 1
    for channels, kernel, stride in ((32, 80, 16), (32, 3, 1), (64, 3, 1), (64, 3, 1)):
        convolution = nn.Conv1d(before, channels, kernel, stride)
        layers += [convolution, nn.BatchNorm1d(channels), nn.ReLU(), nn.MaxPool1d(4)]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, classes))


def _sensor_cnn(classes: int) -> nn.Module:
    """Convolutions over time, without norms."""
    return nn.Sequential(
        nn.Conv1d(6, 32, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


class _Dilated(nn.Module):
    """One block of a temporal convolution network (Bai et al., 2018)."""

    def __init__(self, before: int, channels: int, dilation: int) -> None:
        super().__init__()
        self.room = 2 * dilation
        self.first = nn.Conv1d(before, channels, 3, dilation=dilation)
        self.second = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.across = nn.Conv1d(before, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first(functional.pad(x, (self.room, 0))))
        y = functional.relu(self.second(functional.pad(y, (self.room, 0))))
        return functional.relu(y + self.across(x))


def _temporal(classes: int) -> nn.Module:
    class Network(nn.Module):
        """Answers from the last moment."""

        def __init__(self) -> None:
            super().__init__()
            widths = (6, 32, 32, 32)
            pairs = itertools.pairwise(widths)
            self.blocks = nn.Sequential(*(_Dilated(a, b, 2**k) for k, (a, b) in enumerate(pairs)))
            self.head = nn.Linear(32, classes)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.head(self.blocks(x)[:, :, -1])
            return answer

    return Network()


class _Recurrent(nn.Module):
    """[n, time, 6] -> logits, from the last moment or the mean of all."""

    def __init__(self, layer: type[nn.LSTM | nn.GRU], classes: int, *, both: bool) -> None:
        super().__init__()
        self.recurrent = layer(6, 32, num_layers=2, batch_first=True, bidirectional=both)
        self.both = both
        self.head = nn.Linear(64 if both else 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)
        answer: Tensor = self.head(y.mean(1) if self.both else y[:, -1])
        return answer


def _conv_lstm(classes: int) -> nn.Module:
    class Network(nn.Module):
        """DeepConvLSTM (Ordóñez and Roggen, 2016), with BatchNorms."""

        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.Sequential(
                nn.Conv1d(6, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(),
                nn.Conv1d(32, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(),
            )  # fmt: skip
            self.recurrent = nn.LSTM(32, 32, batch_first=True)
            self.head = nn.Linear(32, classes)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.recurrent(self.convolutions(x.transpose(1, 2)).transpose(1, 2))
            answer: Tensor = self.head(y[:, -1])
            return answer

    return Network()


def _encoder(classes: int) -> nn.Module:
    class Network(nn.Module):
        """torch's own transformer encoder over moments of sensors."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 32)
            self.place = nn.Parameter(torch.randn(1, 128, 32) * 0.1)
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(32, classes)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.head(self.encoder(self.embed(x) + self.place).mean(1))
            return answer

    return Network()


def _perceptron(classes: int) -> nn.Module:
    """Features of a sensor's window, linear layers."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes)
    )


SENSORS = (128, 6)
MODELS: tuple[tuple[Any, ...], ...] = (
    ("keyword DS-CNN", (1, 49, 10), _keyword_net),
    ("wave M5", (1, 16000), _wave_net),
    ("sensor 1-D CNN", (6, 128), _sensor_cnn),
    ("sensor TCN", (6, 128), _temporal),
    ("sensor LSTM", SENSORS, lambda classes: _Recurrent(nn.LSTM, classes, both=False)),
    ("sensor bidirectional LSTM", SENSORS, lambda classes: _Recurrent(nn.LSTM, classes, both=True)),
    ("sensor GRU", SENSORS, lambda classes: _Recurrent(nn.GRU, classes, both=False)),
    ("sensor DeepConvLSTM", SENSORS, _conv_lstm),
    ("sensor transformer", SENSORS, _encoder),
    ("sensor perceptron", (64,), _perceptron),
)
