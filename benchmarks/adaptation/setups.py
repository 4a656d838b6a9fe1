"""What the runs of a task need, prepared once in a folder: frames, source data, bundles.

A prepared folder holds pool/<context>.npy, labels.npy and clean_labels.npy; source.npz with some
training frames; setup.json, which says where checkpoints lie; and bundles/<name>.edgemem.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.adaptation.peers.base import Source, batch_norms
from benchmarks.adaptation.peers.ecotta import warm_up as ecotta_warm_up
from benchmarks.adaptation.streams import pool_path
from benchmarks.adaptation.tasks import Task, task_of
from benchmarks.shared.warm_cache import cache_path
from edgemem.export import Choices, export_bundle
from edgemem.models import AdaptiveModel, Normalization, attach, load_adaptive
from edgemem.models.adaptive.adaptive_model import SOURCE
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.data import to_float
from edgemem.models.onnx_files.onnx_model import load_onnx
from edgemem.models.sites.aligned_model import align
from edgemem.models.sites.measuring import make_measured

SOURCE_FRAMES = 2000  # that peers may use
ECOTTA_FRAMES = 25_600  # of its warm-up: as many as ours has
Note = Callable[[str], None]
Statistics = Literal["mix", "remembered"]


class Normalized(nn.Module):
    """A network that takes frames before they are normalised."""

    def __init__(self, network: nn.Module, by: Normalization, dimensions: int) -> None:
        super().__init__()
        self.network = network
        shape = [1, -1] + [1] * (dimensions - 2)
        self.register_buffer("mean", torch.tensor(by.mean).view(shape))
        self.register_buffer("deviation", torch.tensor(by.deviation).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] -> logits."""
        logits: Tensor = self.network((x - self.mean) / self.deviation)
        return logits


class WarmNetwork(nn.Module):
    """Our adaptive model after its warm-up, as peers take a network; its norms mix statistics."""

    def __init__(self, model: AdaptiveModel) -> None:
        super().__init__()
        self.model = model
        model.add_norm_affine()

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] -> logits."""
        alpha = self.model.alpha(len(x))
        logits: Tensor = self.model(x, None if alpha is None else torch.tensor(alpha)).logits
        return logits

    def norm_parameters(self) -> list[nn.Parameter]:
        """Scales and shifts, of frozen norms and of meta networks."""
        return [p for p in self.model.parameters() if p.dim() == 1]


class Setup:
    """A prepared folder."""

    def __init__(self, folder: Path) -> None:
        self._held = json.loads((folder / "setup.json").read_text())
        self._folder = folder
        self.task = task_of(self._held["task"], Path(self._held["data"]))

    def frozen(self) -> nn.Module:
        """The frozen model."""
        dimensions = self.source().frames.dim()
        return Normalized(self.task.frozen(), self.task.normalization, dimensions).eval()

    def remeasure(self, network: nn.Module) -> None:
        """Give the norms of a frozen network the moments of source frames; see `remeasured`."""
        remeasured(network, self.source().frames)

    def warm(self) -> nn.Module:
        """Our warmed-up model."""
        model, _ = load_adaptive(Path(self._held["warm"]), self.task.frozen())
        return WarmNetwork(model).eval()

    def source(self) -> Source:
        """Source frames, for peers, and EcoTTA's own meta networks."""
        with np.load(self._folder / "source.npz") as held:
            frames, labels = to_float(held["x"]), torch.from_numpy(held["y"])
        path = self._held["ecotta"]
        warmed = None if path is None else read_tensors(Path(path))[0]
        classes = int(labels.max()) + 1
        return Source(frames, labels, classes, self.task.view, network_parts(self.task), warmed)


def remeasured(network: nn.Module, frames: Tensor) -> None:
    """BatchNorms get the moments of their inputs in eval mode over frames [n, ...] as their
    running ones; scales and shifts take up the difference, so that the function is the same."""
    norms = batch_norms(network)
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        values = args[0].double().movedim(1, 0).flatten(1)
        seen[norm].append(torch.stack([values.mean(1), values.square().mean(1)]))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    with torch.no_grad():
        for chunk in frames.chunk(len(frames) // 100 or 1):
            network(chunk)
    for handle in handles:
        handle.remove()
    for norm in norms:
        mean, square = torch.stack(seen[norm]).mean(0)
        _take_moments(norm, mean.float(), (square - mean.square()).float())


def _take_moments(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += slope * (mean - norm.running_mean)
        norm.weight.copy_(slope * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def network_parts(task: Task) -> tuple[str, ...]:
    """The task's parts in a `Normalized` network."""
    return tuple(f"network.{name}" for name in task.parts)


def write_pool(task: Task, contexts: Sequence[str], images: int, folder: Path, note: Note) -> None:
    """Frames of every context, and labels."""
    frames, labels, clean_labels = task.pool(contexts, images, note)
    (folder / "pool").mkdir(parents=True)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "clean_labels.npy", clean_labels)
    for name, held in frames.items():
        np.save(pool_path(folder, name), np.ascontiguousarray(held))


def write_setup(
    name: str, data: Path, folder: Path, *, warm: bool, ecotta: bool, quick: bool
) -> None:
    """Some training frames; where the rest of the data and the warmed-up checkpoints lie."""
    task = task_of(name, data)
    frames, labels = task.source()
    np.savez(
        folder / "source.npz",
        x=np.ascontiguousarray(frames[:SOURCE_FRAMES]),
        y=labels[:SOURCE_FRAMES],
    )
    held = task.frozen().state_dict().values()
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in held)).hexdigest()
    places = {
        "task": name,
        "data": str(data.resolve()),
        "warm": str(task.warmed(quick=quick)) if warm else None,
        "ecotta": str(ecotta_warmed(name, task, quick=quick)) if ecotta else None,
        # What decides how runs come out, beside frames and code.
        "decides": [name, quick, weights],
    }
    (folder / "setup.json").write_text(json.dumps(places))


def ecotta_warmed(name: str, task: Task, *, quick: bool) -> Path:
    """EcoTTA's own meta networks after its own warm-up, on as many frames and epochs as ours."""
    count, epochs = (3200, 1) if quick else (ECOTTA_FRAMES, 3)
    settings = {"frames": count, "epochs": epochs, "batch": task.batch, "parts": task.parts}
    path = cache_path(f"ecotta-{name.replace(', ', '-')}", settings)
    if not path.exists():
        frames, labels = task.source()
        x, y = to_float(frames[:count]), torch.from_numpy(labels[:count])
        torch.manual_seed(0)
        network = Normalized(task.frozen(), task.normalization, x.dim()).eval()
        source = Source(x, y, int(y.max()) + 1, task.view)
        parts, view = network_parts(task), task.warm_up_view
        states = ecotta_warm_up(network, source, parts, epochs=epochs, milestones=(2, 3), view=view)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, states, {})
    return path


@dataclass(frozen=True)
class Exported:
    """How a bundle is made. int8: frozen kernels in eight bits, calibrated on source frames.

    cold: without a warm-up, around the moments of source frames without labels; from_file: of the
    network as an ONNX file. measured: a warm-up around such moments.
    """

    statistics: Statistics = "remembered"
    norm_affine: bool = True
    int8: bool = False
    cold: bool = False
    measured: bool = False
    from_file: bool = False
    choices: Mapping[str, Any] = field(default_factory=dict)


META_PATH = {"gradient": "meta", "learn": "all", "objective": "ecotta"}
BUNDLES = {
    "remembered": Exported(),
    "mix": Exported("mix"),
    "meta path": Exported(norm_affine=False, choices=META_PATH),
    "int8": Exported(int8=True),
    "forward only": Exported(norm_affine=False, choices={"objective": "statistics"}),
    "warm-up on re-measured": Exported(measured=True),
    "re-measured": Exported(cold=True),
    "ONNX file": Exported(cold=True, from_file=True),
    "re-measured, forward only": Exported(
        cold=True, norm_affine=False, choices={"objective": "statistics"}
    ),
}


def write_bundles(task: Task, names: Iterable[str], folder: Path, *, quick: bool) -> None:
    """The bundles of these names, warmed up."""
    (folder / "bundles").mkdir()
    for name in names:
        made = BUNDLES[name]
        if made.cold:
            frames = task.source()[0][:SOURCE_FRAMES]
            model, _ = align(
                _as_file(task.frozen(), frames.shape[1:]) if made.from_file else task.frozen(),
                frames,
                normalization=task.normalization,
                norm_affine=made.norm_affine,
                batch=task.batch,
            )
        else:
            warmed = task.warmed(quick=quick, measured=made.measured)
            model, _ = load_adaptive(warmed, task.frozen())
            model = with_statistics(model, task.frozen(), made.statistics)
            if made.norm_affine:
                model.add_norm_affine()
        path = folder / "bundles" / f"{name}.edgemem"
        int8 = task.source()[0][:SOURCE_FRAMES] if made.int8 else None
        export_bundle(model, path, Choices(batch=task.batch, int8=int8, **made.choices))


def _as_file(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """What becomes of a network that is given as an ONNX file: its norms are in its kernels."""
    example, number = torch.zeros(2, *shape), torch.export.Dim("frames")
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network, (example,), path, dynamic_shapes=({0: number},), external_data=False,
            verbose=False,
        )  # fmt: skip
        return load_onnx(path, None)[0]


def with_statistics(
    model: AdaptiveModel, frozen: nn.Module, statistics: Statistics
) -> AdaptiveModel:
    """The same meta networks with other statistics. One warm-up serves both, and peers: in batches
    of 64, mixed and remembered statistics both weigh the batch by 0.8, and nothing is
    remembered."""
    own = model.attachment
    if own.statistics == statistics:
        return model
    example = torch.zeros(2, *own.input_shape)
    other = attach(
        frozen,
        own.parts,
        example,
        statistics=statistics,
        form=own.form,
        normalization=own.normalization,
        outputs=own.outputs,
    )
    if own.measured:
        make_measured(other)
        other.attachment = replace(other.attachment, measured=True)
    for name in SOURCE:
        setattr(other, name, getattr(model, name))
    other.labels, other.prototypes = model.labels, model.prototypes
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and all("remembered" in name for name in missing)
    other.mark_warm()
    return other
