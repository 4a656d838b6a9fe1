"""Train side of `cifar10c.py`: warm-up of a ResNet-20 by others, kept in a cache; export."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from cifar import MEAN, STD, load_cifar10, resnet_checkpoint
from torch import nn

import edgemem.models
from edgemem.cli.show import percent, progress
from edgemem.export import Choices, export_bundle
from edgemem.files import sha256_file
from edgemem.models import (
    AdaptiveModel,
    Normalization,
    Progress,
    Recipe,
    attach,
    load_adaptive,
    load_into,
    save_adaptive,
    warm_up,
)
from edgemem.models.networks import resnet20

PARTS = ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3")
BATCH = 64
WARM_UP_CODE = ("attach", "augment", "meta_network", "source_keys", "statistics", "warm_up")


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


def frozen_model(data: Path) -> nn.Module:
    """ResNet-20 with the weights by others."""
    model = resnet20()
    load_into(model, resnet_checkpoint(data, 20))
    return model.eval()


def attached(data: Path, variant: Variant) -> AdaptiveModel:
    """The frozen model with fresh meta networks."""
    return attach(
        frozen_model(data),
        PARTS,
        torch.zeros(2, 3, 32, 32),
        statistics=variant.statistics,
        norm_affine=variant.norm_affine,
        normalization=Normalization(MEAN, STD),
    )


def cache_path(data: Path, recipe: Recipe, frames: int, variant: Variant) -> Path:
    """Where a warmed-up checkpoint of these settings lies, in the user's cache."""
    code = Path(edgemem.models.__file__).parent
    settings = {
        "recipe": asdict(recipe),
        "frames": frames,
        "parts": PARTS,
        "variant": asdict(variant),
        "checkpoint": sha256_file(resnet_checkpoint(data, 20)),
        "code": [sha256_file(code / f"{name}.py") for name in WARM_UP_CODE],
    }
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "edgemem" / "cifar10c" / f"resnet20-{digest}.safetensors"


def warmed_checkpoint(
    data: Path, recipe: Recipe, source_frames: int, variant: Variant = VARIANTS["full"]
) -> Path:
    """The checkpoint after warm-up, from the cache if it is there; continues after an abort."""
    path = cache_path(data, recipe, source_frames, variant)
    if path.exists():
        print(f"warm-up: taken from the cache, {path.name}", file=sys.stderr)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    images, labels = load_cifar10(data, "train")
    frames = images[:source_frames].transpose(0, 3, 1, 2)
    model, resume = attached(data, variant), path.with_suffix(".progress.safetensors")
    with progress("steps") as bar:
        task = bar.add_task("warm-up", total=None, note="")

        def note(p: Progress) -> None:
            text = f"loss {p.loss:.3f}, accuracy {percent(p.accuracy)}"
            bar.update(task, completed=p.step, total=p.steps, note=text)

        warm_up(model, frames, labels[: len(frames)], recipe, resume=resume, report=note)
    save_adaptive(model, path, {"checkpoint": resnet_checkpoint(data, 20).name})
    resume.unlink(missing_ok=True)
    return path


def export_bundles(data: Path, checkpoint: Path, folder: Path) -> None:
    """Every variant as a bundle in `folder`."""
    with progress("bundles") as bar:
        task = bar.add_task("export", total=len(VARIANTS), note="")
        for name, variant in VARIANTS.items():
            warm = variant.warm
            model = load_adaptive(checkpoint, frozen_model(data))[0] if warm else None
            choices = Choices(batch=BATCH, gradient=variant.gradient)
            export_bundle(model or attached(data, variant), folder / f"{name}.edgemem", choices)
            bar.update(task, advance=1)
