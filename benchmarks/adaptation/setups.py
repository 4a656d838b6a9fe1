"""What a run needs, prepared once in a folder: frames of every context, source data, bundles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cifar import MEAN, STD, frost_folder, load_cifar10, load_test_jpeg
from cifar10c_model import BATCH, Variant, frozen_model, warmed_checkpoint
from corruptions import corrupt
from torch import Tensor, nn

from adaptation.peers.augment import image_view
from adaptation.peers.base import Source
from adaptation.streams import CLEAN
from adaptation.worker import pool_path
from edgemem.export import Choices, export_bundle
from edgemem.models import AdaptiveModel, Recipe, load_adaptive

NATURAL = "JPEG files"
SEVERITY = 5
SOURCE_FRAMES = 2000  # that peers may use
Note = Callable[[str], None]


class Normalized(nn.Module):
    """A network that takes frames in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(STD).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> logits."""
        logits: Tensor = self.network((x - self.mean) / self.deviation)
        return logits


def frozen_network(folder: Path) -> nn.Module:
    """The frozen model, for peers."""
    data = Path(json.loads((folder / "setup.json").read_text())["data"])
    return Normalized(frozen_model(data)).eval()


class WarmNetwork(nn.Module):
    """Our adaptive model after its warm-up, as peers take a network; its norms mix statistics."""

    def __init__(self, model: AdaptiveModel) -> None:
        super().__init__()
        self.model = model
        model.add_norm_affine()

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> logits."""
        alpha = self.model.alpha(len(x))
        logits: Tensor = self.model(x, None if alpha is None else torch.tensor(alpha)).logits
        return logits

    def norm_parameters(self) -> list[nn.Parameter]:
        """Scales and shifts, of frozen norms and of meta networks."""
        return [p for p in self.model.parameters() if p.dim() == 1]


def warm_network(folder: Path) -> nn.Module:
    """The warmed-up model, for peers."""
    held = json.loads((folder / "setup.json").read_text())
    model, _ = load_adaptive(Path(held["warm"]), frozen_model(Path(held["data"])))
    return WarmNetwork(model).eval()


def source_of(folder: Path) -> Source:
    """Source frames, for peers."""
    with np.load(folder / "source.npz") as held:
        frames, labels = torch.from_numpy(held["x"]).float() / 255, torch.from_numpy(held["y"])
    return Source(frames, labels, int(labels.max()) + 1, image_view)


def write_pool(data: Path, contexts: Sequence[str], images: int, folder: Path, note: Note) -> None:
    """The first test images under every context, "name" at severity 5 or "name/severity"."""
    frames, labels = load_cifar10(data, "test")
    (folder / "pool").mkdir()
    np.save(folder / "labels.npy", labels[:images])
    for name in contexts:
        note(name)
        kind, _, level = name.partition("/")
        if kind == CLEAN:
            made = frames[:images]
        elif kind == NATURAL:
            made = load_test_jpeg(data)[:images]
        else:
            severity = int(level or SEVERITY)
            made = corrupt(frames[:images], kind, severity, seed=0, frost_folder=frost_folder(data))
        np.save(pool_path(folder, name), np.ascontiguousarray(made.transpose(0, 3, 1, 2)))


def write_source(data: Path, warm: Path | None, folder: Path) -> None:
    """Some training images; where the rest of the data and the warmed-up checkpoint lie."""
    frames, labels = load_cifar10(data, "train")
    x = np.ascontiguousarray(frames[:SOURCE_FRAMES].transpose(0, 3, 1, 2))
    np.savez(folder / "source.npz", x=x, y=labels[:SOURCE_FRAMES])
    places = {"data": str(data.resolve()), "warm": None if warm is None else str(warm)}
    (folder / "setup.json").write_text(json.dumps(places))


@dataclass(frozen=True)
class Exported:
    """How a bundle is made. flat: no array has a share of the root."""

    statistics: Literal["mix", "remembered"] = "remembered"
    norm_affine: bool = False
    flat: bool = False
    choices: Mapping[str, Any] = field(default_factory=dict)


NORMS = {"learn": "norms"}
RATIO = {"objective": "likelihood_ratio"}
BUNDLES = {
    "remembered": Exported(),
    "flat": Exported(flat=True),
    "norms": Exported(choices=NORMS),
    "ratio": Exported(choices=NORMS | RATIO | {"learning_rate": 1e-3}),
    "mix ratio full": Exported(
        "mix",
        norm_affine=True,
        choices=NORMS | RATIO | {"gradient": "full", "learning_rate": 3e-4},
    ),
}


def write_bundles(data: Path, names: Iterable[str], quick: bool, folder: Path) -> None:
    """The bundles of these names, warmed up."""
    (folder / "bundles").mkdir()
    for name in names:
        made = BUNDLES[name]
        checkpoint = warmed(data, made.statistics, quick)
        model, _ = load_adaptive(checkpoint, frozen_model(data))
        if made.norm_affine:
            model.add_norm_affine()
        path = folder / "bundles" / f"{name}.edgemem"
        export_bundle(model, path, Choices(batch=BATCH, **made.choices))
        if made.flat:
            flatten(path / "manifest.json")


def warmed(data: Path, statistics: Literal["mix", "remembered"], quick: bool) -> Path:
    """The checkpoint after a warm-up with these statistics."""
    recipe, frames = Recipe(epochs=1 if quick else 3), 3200 if quick else 25_600
    # The gradient path plays no part in a warm-up; it names the cached files of other benchmarks.
    gradient: Literal["meta", "full"] = "full" if statistics == "mix" else "meta"
    variant = Variant(warm=True, statistics=statistics, norm_affine=False, gradient=gradient)
    return warmed_checkpoint(data, recipe, frames, variant)


def flatten(path: Path) -> None:
    """Take every array's share of the root away."""
    document = json.loads(path.read_text())
    for array in document["block"]:
        array["root_share"] = 0.0
    path.write_text(json.dumps(document))
