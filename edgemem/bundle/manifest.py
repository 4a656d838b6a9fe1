"""The manifest of a bundle: what `manifest.json` holds.

The byte-level format is docs/formats/bundle.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from edgemem.bank.levels.level_folder import is_level
from edgemem.block import BlockSpec
from edgemem.bundle.frame_spec import FrameSpec

REMEDY = "Export the bundle again or get a fresh copy"


@dataclass(frozen=True)
class HyperParameter:
    """A scalar input of the graphs.

    Attributes:
        frozen: its value that, with the zero block, gives the frozen model.
    """

    default: float
    frozen: float


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """One way to run the adaptation step, with what it took when the bundle was written.

    Attributes:
        graph: its name under graphs.
        profile: settings of the engine, "latency" or "memory".
        bytes: memory of graphs, weights and activations while predicting and adapting.
        milliseconds: of one step there; only their ratios mean something elsewhere.
    """

    name: str
    graph: str
    profile: str
    bytes: int
    milliseconds: float


PROFILES = ("latency", "memory")
ONNX, LITERT, NPU = "onnx", "litert", "npu"
TARGETS = (ONNX, LITERT, NPU)  # sets of graphs; every bundle has the first
# Input of graphs for one batch size: how many rows of x are frames; the others have no effect.
FILLED = "filled"
# Input of `learn`: the class of each row, -1 where there is none.
LABELS = "y"
# Graph that does what a step does at a learning rate of zero, without a gradient.
REMEMBER = "remember"
CLOSED = -1e4  # logit of a class that is not there; half precision holds it


@dataclass(frozen=True)
class Binding:
    """One graph of a target: where it is, and how its tensors are called.

    Attributes:
        file: of the bundle.
        signature: its name within the file, where that holds several.
        inputs: names by the graph contract, in the order of the file's own; empty where the file's
            names are these.
        outputs: names by the graph contract, in the order of the file's own; empty where the file's
            names are these.
    """

    file: str
    signature: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Teaching:
    """What `learn` can teach this bundle.

    Attributes:
        capacity: classes there is room for, the model's own included; logits have as many columns.
        arrays: those of the block whose first axis is the class; a row of zeros is a class that was
            never taught.
        root_share: part of what is taught of a class that the root takes at once, so that every
            context knows it; the rest is the present context's.
        reads: ways to answer by name, each with the hyper-parameters that make it so, the default
            first.
    """

    capacity: int
    arrays: tuple[str, ...]
    root_share: float
    reads: dict[str, dict[str, float]]


CLASSES = "classes"
# What a model's outputs are; see docs/how-to/other-outputs.md.
TASKS = (
    CLASSES, "multilabel", "dense", "sequence", "detection", "regression", "embedding",
    "reconstruction",
)  # fmt: skip
POSITIONS = ("multilabel", "dense", "sequence")  # tasks with classes at every position or label
SUMMARY = "summary"  # output of graphs: what guard rails compare
MOST_SUMMARY = 256  # numbers of it


@dataclass(frozen=True)
class OutputSpec:
    """One named output of a model that tells no classes apart.

    Attributes:
        shape: of what it says of one frame.
        axis: of the frames, in the array that the graphs return as `out.NAME`.
    """

    name: str
    shape: tuple[int, ...]
    axis: int = 0

    @property
    def tensor(self) -> str:
        """Its name in the graphs."""
        return f"out.{self.name}"

    @property
    def sizes(self) -> str:
        """Its shape for n frames, for people."""
        found = [*map(str, self.shape)]
        found.insert(self.axis, "n")
        return f"[{', '.join(found)}]"


def is_answer(name: str) -> bool:
    """Whether an output of a graph says something of each frame."""
    return name in ("logits", SUMMARY) or name.startswith("out.")


@dataclass(frozen=True)
class TaskSpec:
    """What the outputs are, where they are no logits of classes that exclude each other.

    Attributes:
        kind: one of `TASKS`, never "classes".
        outputs: in the order of the model.
        summary: numbers that stand for what is said of a frame; the last is the mean entropy
            of its positions, where these have classes.
        mean, deviation: of each of them over source frames; empty = no source frames were known.
        limit: distance from the frozen model's summary, in these deviations, above which a block is
            not trusted, unless it is more like source frames than the frozen model's is.
    """

    kind: str
    outputs: tuple[OutputSpec, ...]
    summary: int
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    limit: float = 0.0

    @property
    def knows_certainty(self) -> bool:
        """Whether the last number of the summary is a mean entropy."""
        return self.kind in POSITIONS

    @property
    def numbers(self) -> int:
        """What is said of one frame, the summary included."""
        return self.summary + sum(math.prod(output.shape) for output in self.outputs)


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about a bundle before it opens a graph.

    Attributes:
        graphs: name -> file.
        targets: the same graphs for other engines, for one batch size: target -> name -> binding.
        plans: ways to run the step, the fastest first; every one changes a block in the same way.
        labels: class names in the order of the logits; none for other tasks.
        key: size of the context key.
        reference: file with outputs that every device must reproduce.
        source: file that tells what keys of source data look like; None = contexts are not told
            apart.
        exported_from: names and hashes of what the bundle was made from, the figures of its parity
            check, and what tuning found; for people, never read by the runtime.
        adapt_when: the step runs on one batch in so many, if the caller does not say otherwise.
        familiar: whether the frozen model answers frames that are like the source's.
        task: what the outputs are; None = logits of classes.
        surer_below: the block answers only while its mean entropy is below so many times the frozen
            model's; None = source frames gave no such limit.
    """

    name: str
    graphs: dict[str, str]
    plans: tuple[Plan, ...]
    frames: FrameSpec
    labels: tuple[str, ...]
    block: BlockSpec
    slots: BlockSpec
    hyper_parameters: dict[str, HyperParameter]
    key: int
    stats: tuple[str, ...]
    generic_block: str
    reference: str
    source: str | None
    files: dict[str, FileRecord]
    exported_from: dict[str, Any] = field(default_factory=dict)
    adapt_when: int = 1
    familiar: bool = True
    targets: dict[str, dict[str, Binding]] = field(default_factory=dict)
    teaching: Teaching | None = None
    task: TaskSpec | None = None
    surer_below: float | None = None

    def at(self, shape: tuple[int, ...]) -> Manifest:
        """The same bundle for frames of one of its sizes alone, with the graphs for that."""
        size = next((size for size in self.frames.sizes if size.shape == shape), None)
        frames, task = replace(self.frames, shape=shape, sizes=()), self.task
        if size is None:
            return replace(self, frames=replace(self.frames, sizes=()))
        if task is not None:
            outputs = zip(task.outputs, size.outputs, strict=True)
            task = replace(task, outputs=tuple(replace(o, shape=own) for o, own in outputs))
        return replace(self, frames=frames, graphs=size.graphs, reference=size.reference, task=task)

    @property
    def answers(self) -> tuple[str, ...]:
        """The outputs of graphs that say something of each frame."""
        if self.task is None:
            return ("logits",)
        return (SUMMARY, *(output.tensor for output in self.task.outputs))

    @property
    def classes(self) -> int:
        """Columns of the logits; 0 where there are none."""
        return len(self.labels) if self.teaching is None else self.teaching.capacity

    def binding(self, graph: str, target: str) -> Binding | None:
        """Where a graph of a target is; None = the bundle has none."""
        if target == ONNX:
            return Binding(self.graphs[graph]) if graph in self.graphs else None
        return self.targets.get(target, {}).get(graph)

    @property
    def levels(self) -> list[str]:
        """The files that are levels of the shipped bank."""
        return [name for name in self.files if is_level(name)]

    def refuses_levels(self) -> str | None:
        """Why no level can be part of this bundle, or None if it can."""
        if self.source is None:
            return "there are no source keys, so contexts are not told apart"
        other = next((spec for spec in self.block.arrays if spec.dtype != "float32"), None)
        return None if other is None else f"array {other.name!r} of the block is {other.dtype}"
