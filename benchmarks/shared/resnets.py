"""A ResNet by others for CIFAR-10, with meta networks whose warm-up is kept in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.shared.cifar import MEAN, STD, load_cifar10, resnet_checkpoint
from benchmarks.shared.warm_cache import cached_warm_up
from edgemem.files.atomic import sha256_file
from edgemem.models import AdaptiveModel, Normalization, Recipe, attach, load_into
from edgemem.models.networks import resnet20, resnet32
from edgemem.models.sites.measuring import measure_source

Depth = Literal[20, 32]
PARTS: dict[Depth, tuple[str, ...]] = {
    20: ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"),
    32: ("layer1[0:3]", "layer1[3:5]", "layer2", "layer3"),
}
MEASURED = 2000  # source frames
NETWORKS = {20: resnet20, 32: resnet32}


def frozen_model(data: Path, depth: Depth = 20) -> nn.Module:
    """A ResNet with the weights by others."""
    model = NETWORKS[depth]()
    load_into(model, resnet_checkpoint(data, depth))
    return model.eval()


def attached(data: Path, depth: Depth = 20) -> AdaptiveModel:
    """The frozen model with fresh meta networks."""
    return attach(
        frozen_model(data, depth),
        PARTS[depth],
        torch.zeros(2, 3, 32, 32),
        statistics="mix",
        normalization=Normalization(MEAN, STD),
    )


def warmed_checkpoint(
    data: Path, recipe: Recipe, source_frames: int, depth: Depth, *, measured: bool = False
) -> Path:
    """The checkpoint after warm-up, from the cache if it is there.

    measured: around moments of source frames in eval mode.
    """
    settings = {
        "frames": source_frames,
        "parts": PARTS[depth],
        "checkpoint": sha256_file(resnet_checkpoint(data, depth)),
    }

    def source() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images, labels = load_cifar10(data, "train")
        return images[:source_frames].transpose(0, 3, 1, 2), labels[:source_frames]

    def model() -> AdaptiveModel:
        made = attached(data, depth)
        if measured:
            measure_source(made, source()[0][:MEASURED])
        return made

    kind = f"resnet{depth}-measured" if measured else f"resnet{depth}"
    return cached_warm_up(kind, settings, recipe, model, source)
