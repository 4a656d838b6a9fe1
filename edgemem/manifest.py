"""The manifest of a bundle: what `manifest.json` holds, and the checks on reading it.

The byte-level format is docs/bundle-format.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from edgemem.bank.folder import is_level
from edgemem.block import DTYPES, ArraySpec, BlockSpec
from edgemem.errors import BundleError
from edgemem.version import VERSION

FORMAT = "edgemem-bundle"
FORMAT_VERSION = 1
MAX_RING_BYTES = 1 << 30
REMEDY = "Export the bundle again or get a fresh copy"


@dataclass(frozen=True)
class FrameSpec:
    """The frames a bundle takes: [n, *shape] float32, or uint8 to be divided by `uint8_scale`.

    batch: frames in one adaptation step. companions: whether the prediction of a frame depends on
    the frames beside it (batch statistics), so that short calls are filled with recent frames;
    known_companions: how many are enough once the block remembers its context. source_range: what
    values of source frames lie between, lowest and highest of each channel; None = not known.
    """

    shape: tuple[int, ...]
    batch: int
    companions: bool
    known_companions: int
    uint8_scale: float = 255.0
    source_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class HyperParameter:
    """A scalar input of the graphs. frozen: its value that, with the zero block, gives the
    frozen model."""

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

    graph: its name under graphs. profile: settings of the engine, "latency" or "memory". bytes:
    memory of graphs, weights and activations while predicting and adapting. milliseconds: of one
    step there; only their ratios mean something elsewhere.
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
CLOSED = -1e4  # logit of a class that is not there; half precision holds it


@dataclass(frozen=True)
class Binding:
    """One graph of a target: where it is, and how its tensors are called.

    file: of the bundle. signature: its name within the file, where that holds several. inputs and
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

    capacity: classes there is room for, the model's own included; logits have as many columns.
    arrays: those of the block whose first axis is the class; a row of zeros is a class that was
    never taught. root_share: part of what is taught of a class that the root takes at once, so that
    every context knows it; the rest is the present context's. reads: ways to answer by name, each
    with the hyper-parameters that make it so, the default first.
    """

    capacity: int
    arrays: tuple[str, ...]
    root_share: float
    reads: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about a bundle before it opens a graph.

    graphs: name -> file. targets: the same graphs for other engines, for one batch size: target ->
    name -> binding. plans: ways to run the step, the fastest first; every one changes a block
    in the same way. labels: class names in the order of the logits. key: size of the
    context key. reference: file with outputs that every device must reproduce. source: file that
    tells what keys of source data look like; None = contexts are not told apart. exported_from:
    names and hashes of what the bundle was made from, the figures of its parity check, and what
    tuning found; for people, never read by the runtime. adapt_when: the step runs on one batch in
    so many, if the caller does not say otherwise. familiar: whether the frozen model answers frames
    that are like the source's.
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

    @property
    def classes(self) -> int:
        """Columns of the logits."""
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


def to_json(manifest: Manifest) -> bytes:
    """The manifest as the bytes of `manifest.json`."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_by": f"edgemem {VERSION}",
        "name": manifest.name,
        "graphs": manifest.graphs,
        "targets": {
            target: {name: vars(binding) for name, binding in graphs.items()}
            for target, graphs in manifest.targets.items()
        },
        "plans": [vars(plan) for plan in manifest.plans],
        "frames": vars(manifest.frames),
        "labels": manifest.labels,
        "block": [vars(spec) for spec in manifest.block.arrays],
        "slots": [vars(spec) for spec in manifest.slots.arrays],
        "hyper_parameters": {k: vars(v) for k, v in manifest.hyper_parameters.items()},
        "key": manifest.key,
        "stats": manifest.stats,
        "generic_block": manifest.generic_block,
        "reference": manifest.reference,
        "source": manifest.source,
        "files": {name: vars(record) for name, record in manifest.files.items()},
        "exported_from": manifest.exported_from,
        "adapt_when": manifest.adapt_when,
        "familiar": manifest.familiar,
        "teaching": None if manifest.teaching is None else vars(manifest.teaching),
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def from_json(content: bytes, where: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: not JSON, another format or version, or a value of the wrong kind.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(where, f"is not JSON ({error})", REMEDY) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(where, "is not the manifest of an EdgeMem bundle", REMEDY)
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            where,
            f"has format version {version!r}; this EdgeMem reads {FORMAT_VERSION}",
            "Update EdgeMem, or export the bundle again",
        )
    try:
        manifest = _parse(document)
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"field {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(where, f"has a missing or wrong value ({reason})", REMEDY) from error
    return manifest


def _parse(document: dict[str, Any]) -> Manifest:
    frames = document["frames"]
    return Manifest(
        name=_text(document["name"]),
        graphs={_text(k): _text(v) for k, v in document["graphs"].items()},
        plans=tuple(_plan(entry) for entry in document["plans"]),
        frames=FrameSpec(
            tuple(_count(n) for n in frames["shape"]),
            _count(frames["batch"]),
            bool(frames["companions"]),
            _count(frames["known_companions"], least=0),
            _positive(frames["uint8_scale"]),
            _range(frames["source_range"]),
        ),
        labels=tuple(_text(label) for label in document["labels"]),
        block=_block_spec(document["block"]),
        slots=_block_spec(document["slots"]),
        hyper_parameters={
            _text(name): HyperParameter(_finite(value["default"]), _finite(value["frozen"]))
            for name, value in document["hyper_parameters"].items()
        },
        key=_count(document["key"], least=0),
        stats=tuple(_text(name) for name in document["stats"]),
        generic_block=_text(document["generic_block"]),
        reference=_text(document["reference"]),
        source=None if document["source"] is None else _text(document["source"]),
        files={
            _text(name): FileRecord(_count(record["size"], least=0), _text(record["sha256"]))
            for name, record in document["files"].items()
        },
        exported_from=dict(document["exported_from"]),
        adapt_when=_count(document["adapt_when"]),
        familiar=_flag(document["familiar"]),
        targets={
            _text(target): {_text(name): _binding(entry) for name, entry in graphs.items()}
            for target, graphs in document["targets"].items()
        },
        teaching=_teaching(document["teaching"]),
    )


def _check(manifest: Manifest) -> None:
    """Relations between values, before any memory is reserved from them."""
    if "predict" not in manifest.graphs:
        raise ValueError("no graph named 'predict'")
    if manifest.source is not None and "key" not in manifest.graphs:
        raise ValueError("source keys, but no graph named 'key'")
    if "adapt" in manifest.graphs and not manifest.plans:
        raise ValueError("a graph named 'adapt', but no plan")
    _check_teaching(manifest)
    if unknown := [plan.graph for plan in manifest.plans if plan.graph not in manifest.graphs]:
        raise ValueError(f"a plan with graph {unknown[0]!r}, which is not listed")
    more = [manifest.source] if manifest.source is not None else []
    more += _files_of_targets(manifest)
    for name in [*manifest.graphs.values(), manifest.generic_block, manifest.reference, *more]:
        if name not in manifest.files:
            raise ValueError(f"file {name!r} is not listed under files")
        # Levels are not hashed when a bundle is opened; everything else is.
        if is_level(name):
            raise ValueError(f"file {name!r} has the name of a level but is none")
    if manifest.levels and (reason := manifest.refuses_levels()):
        raise ValueError(f"levels of a bank, but {reason}")
    _check_frames(manifest.frames)
    block_bytes = manifest.files[manifest.generic_block].size
    if manifest.block.nbytes > block_bytes:
        raise ValueError("the block specification is larger than the generic block")
    if manifest.slots.nbytes > 4 * block_bytes + (1 << 16):
        raise ValueError("the optimiser slots are larger than four blocks")


def _check_frames(frames: FrameSpec) -> None:
    if 8 * frames.batch * math.prod(frames.shape) > MAX_RING_BYTES:
        raise ValueError(f"frames of {list(frames.shape)} by {frames.batch} are too large")
    for values in frames.source_range or ():
        if (len(values),) != frames.shape[:1]:
            raise ValueError("source_range is not one value for each channel")


def _check_teaching(manifest: Manifest) -> None:
    teaching = manifest.teaching
    if (teaching is None) != ("learn" not in manifest.graphs):
        raise ValueError("a graph named 'learn' and 'teaching' belong together")
    if teaching is None:
        return
    if teaching.capacity < len(manifest.labels):
        raise ValueError(f"room for {teaching.capacity} classes, but {len(manifest.labels)} labels")
    shapes = {spec.name: spec.shape for spec in manifest.block.arrays}
    for name in teaching.arrays:
        if shapes.get(name, ())[:1] != (teaching.capacity,):
            raise ValueError(f"array {name!r} has no row for each class")
    for name, values in teaching.reads.items():
        if unknown := sorted(set(values) - set(manifest.hyper_parameters)):
            raise ValueError(f"read {name!r} sets {unknown[0]!r}, which is no hyper-parameter")
    if not teaching.arrays or not teaching.reads:
        raise ValueError("teaching without arrays or without a way to read")


def _files_of_targets(manifest: Manifest) -> list[str]:
    for target, graphs in manifest.targets.items():
        if target not in TARGETS[1:]:
            raise ValueError(f"target {target!r}")
        if "predict" not in graphs or set(graphs) - set(manifest.graphs):
            raise ValueError(f"graphs of target {target!r}: {', '.join(sorted(graphs))}")
    return [item.file for graphs in manifest.targets.values() for item in graphs.values()]


def _binding(entry: dict[str, Any]) -> Binding:
    return Binding(
        _text(entry["file"]),
        _text(entry["signature"]),
        tuple(_text(name) for name in entry["inputs"]),
        tuple(_text(name) for name in entry["outputs"]),
    )


def _teaching(entry: dict[str, Any] | None) -> Teaching | None:
    if entry is None:
        return None
    share = _finite(entry["root_share"])
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"root_share {share!r} is not within 0 to 1")
    return Teaching(
        _count(entry["capacity"]),
        tuple(_text(name) for name in entry["arrays"]),
        share,
        {
            _text(name): {_text(k): _finite(v) for k, v in values.items()}
            for name, values in entry["reads"].items()
        },
    )


def _plan(entry: dict[str, Any]) -> Plan:
    if entry["profile"] not in PROFILES:
        raise ValueError(f"profile {entry['profile']!r}")
    return Plan(
        _text(entry["name"]),
        _text(entry["graph"]),
        entry["profile"],
        _count(entry["bytes"]),
        _positive(entry["milliseconds"]),
    )


def _block_spec(entries: list[dict[str, Any]]) -> BlockSpec:
    specs = []
    for entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"dtype {entry['dtype']!r}")
        shape = tuple(_count(n) for n in entry["shape"])
        zero, share = _finite(entry["zero"]), _finite(entry["root_share"])
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"root_share {share!r} is not within 0 to 1")
        specs.append(ArraySpec(_text(entry["name"]), shape, entry["dtype"], zero, share))
    if len({spec.name for spec in specs}) != len(specs):
        raise ValueError("two arrays have the same name")
    return BlockSpec(tuple(specs))


def _range(entry: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if entry is None:
        return None
    low, high = (tuple(_finite(v) for v in values) for values in entry)
    return low, high


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _count(value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 48:
        raise TypeError(f"{value!r} is not a count")
    return value


def _positive(value: Any) -> float:
    if _finite(value) <= 0:
        raise ValueError(f"{value!r} is not above zero")
    return float(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
