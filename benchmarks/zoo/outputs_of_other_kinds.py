"""Networks whose answers are no choice among classes: segmentation, sequences, numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmarks.zoo.without_cuda import import_torchvision

PICTURE = (3, 64, 64)


def _segmentation(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = import_torchvision().models
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=10)

        class Dense(nn.Module):
            """Its answer stands in a dict under "out"."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Tensor) -> Tensor:
                answer: Tensor = self.model(x)["out"]
                return answer

        return Dense()

    return make


def _small_unet() -> nn.Module:
    class Network(nn.Module):
        """U-Net of two levels (Ronneberger et al., 2015)."""

        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.deep = nn.Sequential(
                nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
            )
            self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
            self.head = nn.Conv2d(16, 10, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(x)
            answer: Tensor = self.head(y + self.up(self.deep(y)))
            return answer

    return Network()


def _detector() -> nn.Module:
    """What a YOLO has: maps of boxes and scores of three sizes, as one tensor."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 16, 32, 64)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.SiLU())
                for a, b in itertools.pairwise(widths)
            )
            self.heads = nn.ModuleList(nn.Conv2d(b, 4 + 10, 1) for b in widths[1:])

        def forward(self, x: Tensor) -> Tensor:
            import torch

            found = []
            for stage, head in zip(self.stages, self.heads, strict=True):
                x = stage(x)
                found.append(head(x).flatten(2))
            return torch.cat(found, 2)

    return Network()


def _recogniser() -> nn.Module:
    class Network(nn.Module):
        """CRNN (Shi et al., 2017): characters along a line, for CTC."""

        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, (2, 1), 1), nn.BatchNorm2d(32), nn.ReLU(),
                nn.AdaptiveAvgPool2d((1, None)),
            )  # fmt: skip
            self.recurrent = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
            self.head = nn.Linear(64, 40)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.recurrent(self.convolutions(x).squeeze(2).transpose(1, 2))
            answer: Tensor = self.head(y)
            return answer

    return Network()


def _regression() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 1),
    )  # fmt: skip


def _autoencoder() -> nn.Module:
    """MLPerf Tiny's anomaly detection: a window of sound, made again."""
    layers: list[nn.Module] = []
    widths = (640, 128, 128, 8, 128, 128)
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


MODELS: tuple[tuple[Any, ...], ...] = (
    ("small U-Net", "torch", PICTURE, _small_unet, "dense"),
    *(
        (name, "torchvision", PICTURE, _segmentation(name), "dense")
        for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
    ),
    ("detector with three heads", "torch", PICTURE, _detector, "detection"),
    ("text recogniser CRNN", "torch", (1, 32, 64), _recogniser, "sequence"),
    ("sensor regression", "torch", (6, 128), _regression, "regression"),
    ("autoencoder of sound", "torch", (640,), _autoencoder, "reconstruction"),
)
