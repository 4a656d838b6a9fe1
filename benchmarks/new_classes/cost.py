"""What a class costs on a device: milliseconds of the graph, and bytes of the block."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.new_classes.courses import BATCH, course
from benchmarks.new_classes.running import OURS, WAYS, run_ours
from benchmarks.new_classes.subjects import Subject, kept_bundle
from edgemem.bundle.manifest import Manifest
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.export import Choices
from edgemem.models import attach
from edgemem.runtime.engines.choice import EngineSettings, open_backend
from edgemem.runtime.step.graphs import Graphs

PROTOTYPES = "prototypes."
CLASSES, FEATURES = 100, 512
OWN = (10, 50)  # of the 100, the model's own
GRAPH_RUNS, ROUNDS = 100, 3


@dataclass(frozen=True)
class Block:
    """Bytes of a block with room for classes. row: of each class that is taught. prototypes: of all
    arrays that hold any. all: of the whole block."""

    own: int
    capacity: int
    row: int
    prototypes: int
    all: int


def block(manifest: Manifest) -> Block:
    """What a bundle's manifest says of its block."""
    teaching = manifest.teaching
    assert teaching is not None, "a bundle that can be taught"
    sizes = {spec.name: spec.nbytes for spec in manifest.block.arrays}
    row = sum(sizes[name] for name in teaching.arrays) // teaching.capacity
    held = sum(size for name, size in sizes.items() if name.startswith(PROTOTYPES))
    return Block(len(manifest.labels), teaching.capacity, row, held, sum(sizes.values()))


class Wide(nn.Module):
    """The smallest network with so many features."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, FEATURES, 3, 2, 1, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU()
        )
        self.classifier = nn.Linear(FEATURES, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Frames [n, 1, 8, 8] -> logits [n, classes]."""
        logits: torch.Tensor = self.classifier(self.stem(x).mean((2, 3)))
        return logits


def wide_blocks() -> list[dict[str, Any]]:
    """Blocks of 100 classes and 512 features, from bundles that are exported for it."""
    found = []
    for own in OWN:
        torch.manual_seed(0)
        model = attach(Wide(own), (), torch.zeros(2, 1, 8, 8), norm_affine=True)
        path = kept_bundle(f"wide-{own}", model, Choices(batch=BATCH, max_classes=CLASSES))
        found.append(asdict(block(open_bundle(path).manifest)))
    return found


def lesson_cost(group: str, subject: Subject, shots: int) -> dict[str, Any]:
    """Of one lesson of a course: milliseconds, the fastest of some rounds, for others use the
    machine, too; and bytes."""
    made = course(subject.labels, subject.own, subject.new, subject.test, seed=0)
    rounds = [run_ours(subject, made, shots, WAYS[OURS])[1] for _ in range(ROUNDS)]
    fastest = np.min([cost.milliseconds for cost in rounds], 0)
    return {
        "group": group,
        "shots": shots,
        "milliseconds": float(np.median(fastest[1:])),
        "first": float(fastest[0]),
        "graph": graph_milliseconds(subject.bundle),
        "row": block(open_bundle(subject.bundle).manifest).row,
        "written": float(np.median(rounds[0].written)),
        "grown": rounds[0].grown,
    }


def graph_milliseconds(path: Path) -> float:
    """The fastest call of the graph `learn` of a bundle, a batch of frames of which four are
    labelled; one thread."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    graphs = Graphs(bundle, open_backend(bundle, "cpu", EngineSettings(1, "latency", None)))
    x, labels = reference_frames(manifest.frames, 0), np.full(BATCH, -1, np.int64)
    labels[-4:] = len(manifest.labels)
    values = {name: value.default for name, value in manifest.hyper_parameters.items()}
    took = []
    for _ in range(GRAPH_RUNS):
        began = time.perf_counter()
        graphs.learn(x, labels, bundle.generic, values)
        took.append(1000 * (time.perf_counter() - began))
    return min(took)
