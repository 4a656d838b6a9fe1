"""Train side of `cifar10c.py`: warm-up of a ResNet-20 by others, kept in a cache; export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cifar import MEAN, STD, load_cifar10, resnet_checkpoint
from numpy.typing import NDArray
from torch import nn
from warm_cache import cached_warm_up

from edgemem.cli.show import progress
from edgemem.export import Choices, export_bundle
from edgemem.export.choices import LEARNING_RATES
from edgemem.files import sha256_file
from edgemem.models import (
    AdaptiveModel,
    Normalization,
    Recipe,
    attach,
    load_adaptive,
    load_into,
)
from edgemem.models.networks import resnet20, resnet32

Depth = Literal[20, 32]
PARTS: dict[Depth, tuple[str, ...]] = {
    20: ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"),
    32: ("layer1[0:3]", "layer1[3:5]", "layer2", "layer3"),
}
NETWORKS = {20: resnet20, 32: resnet32}
BATCH = 64


@dataclass(frozen=True)
class Variant:
    """One bundle to export."""

    warm: bool
    statistics: Literal["batch", "mix", "remembered"]
    norm_affine: bool
    gradient: Literal["meta", "full"]


VARIANTS = {
    "plain": Variant(warm=False, statistics="batch", norm_affine=False, gradient="meta"),
    "cold": Variant(warm=False, statistics="mix", norm_affine=True, gradient="full"),
    "meta": Variant(warm=True, statistics="mix", norm_affine=False, gradient="meta"),
    "full": Variant(warm=True, statistics="mix", norm_affine=False, gradient="full"),
}


def frozen_model(data: Path, depth: Depth = 20) -> nn.Module:
    """A ResNet with the weights by others."""
    model = NETWORKS[depth]()
    load_into(model, resnet_checkpoint(data, depth))
    return model.eval()


def attached(data: Path, variant: Variant, depth: Depth = 20) -> AdaptiveModel:
    """The frozen model with fresh meta networks."""
    return attach(
        frozen_model(data, depth),
        PARTS[depth],
        torch.zeros(2, 3, 32, 32),
        statistics=variant.statistics,
        norm_affine=variant.norm_affine,
        normalization=Normalization(MEAN, STD),
    )


def warmed_checkpoint(
    data: Path,
    recipe: Recipe,
    source_frames: int,
    variant: Variant = VARIANTS["full"],
    depth: Depth = 20,
) -> Path:
    """The checkpoint after warm-up, from the cache if it is there."""
    settings = {
        "frames": source_frames,
        "parts": PARTS[depth],
        "variant": asdict(variant),
        "checkpoint": sha256_file(resnet_checkpoint(data, depth)),
    }

    def source() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images, labels = load_cifar10(data, "train")
        return images[:source_frames].transpose(0, 3, 1, 2), labels[:source_frames]

    return cached_warm_up(
        f"resnet{depth}", settings, recipe, lambda: attached(data, variant, depth), source
    )


def export_bundles(data: Path, checkpoint: Path, folder: Path) -> None:
    """Every variant as a bundle in `folder`."""
    with progress("bundles") as bar:
        task = bar.add_task("export", total=len(VARIANTS), note="")
        for name, variant in VARIANTS.items():
            warm = variant.warm
            model = load_adaptive(checkpoint, frozen_model(data))[0] if warm else None
            choices = Choices(
                BATCH, variant.gradient, "all", "ecotta", learning_rate=LEARNING_RATES["sgd"]
            )
            export_bundle(model or attached(data, variant), folder / f"{name}.edgemem", choices)
            bar.update(task, advance=1)
