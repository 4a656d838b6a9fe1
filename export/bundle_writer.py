"""`export_bundle`: trace, write, check against torch, and only then put the bundle in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from edgemem.block import pack
from edgemem.bundle.manifest_file import to_json
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.sealed_document import MANIFEST
from edgemem.errors import InputError
from edgemem.export.bundle_manifest import (
    GENERIC,
    SOURCE,
    manifest_of,
    origin_of,
    teaching_of,
)
from edgemem.export.checks.calibrating import calibrated
from edgemem.export.checks.calibrating_share import limited
from edgemem.export.checks.onnx_graphs import onnx_engine
from edgemem.export.checks.parity_result import Parity
from edgemem.export.choices import Choices, check_choices, frame_spec, settled
from edgemem.export.functions.class_reading import Reading, teachable
from edgemem.export.memory_plans import measured_plans
from edgemem.export.other_tasks import railed
from edgemem.export.targets.integer import reference_of, rewritten
from edgemem.export.targets.target_graphs import Targets
from edgemem.export.traced_graphs import TracedGraphs, compared, further_sizes, traced_graphs
from edgemem.export.weights import FILE as WEIGHTS
from edgemem.export.weights import share_weights
from edgemem.files.atomic import new_folder
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.warmup.source_keys import source_keys


def export_bundle(
    model: AdaptiveModel,
    path: Path | str,
    choices: Choices | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> Parity:
    """Write `model` as a bundle at `path` and return the figures of the parity check.

    Args:
        model: from `attach`, warmed up or not.
        path: folder to write; an old bundle there is replaced only if everything succeeds.
        choices: default Choices().
        source: names and hashes of what the model was made from, kept in the manifest.
        report: called with the name of each stage.

    Raises:
        ExportError: the model at rest is not the one that was given, the step cannot be traced, or
            its graph misses the parity check.
        InputError: the folder cannot be written, or holds something else than a bundle.
    """
    path, choices = Path(path), settled(model, choices or Choices())
    if path.exists() and not (path / MANIFEST).is_file():
        raise InputError(str(path), "exists and is not a bundle", "Choose another folder")
    check_choices(model, choices)
    choices = replace(choices, labels=choices.labels or model.labels)
    with ExitStack() as trimmed:
        trimmed.enter_context(model.learning(choices.learn))
        if not model.warm:
            for meta in model.meta_networks():
                trimmed.enter_context(meta.without_branch())
        reading = None
        if choices.max_classes is not None:
            reading = trimmed.enter_context(teachable(model, choices.max_classes))
        return _export(model, path, choices, reading, source or {}, report)


def _export(
    model: AdaptiveModel,
    path: Path,
    choices: Choices,
    reading: Reading | None,
    source: Mapping[str, Any],
    report: Callable[[str], None],
) -> Parity:
    frames = frame_spec(model, choices)
    own = traced_graphs(model, choices, frames, reading, report)
    sized = [own, *further_sizes(model, choices, frames, report)]
    targets = Targets(model, own.functions, choices.targets, frames, reading)
    others = targets.graphs(report)
    exact = copy.deepcopy({**own.graphs, **others}) if choices.int8 is not None else {}
    with new_folder(path) as folder:
        report("writing")
        _write_graphs(folder, sized, others)
        report("comparing with torch")
        checked = [compared(folder, model, traced) for traced in sized]
        parities, references = [p for p, _ in checked], [r for _, r in checked]
        reports = targets.write(folder, own.objective.exercise, report)
        if choices.int8 is not None:
            report("quantising")
            reports["int8"] = rewritten(
                folder,
                exact,
                [kernel.detach().numpy() for kernel in model.kernels()],
                own.functions["predict"],
                to_float(choices.int8).numpy(),
                choices.batch,
            )
            predict, adapt = own.functions["predict"], own.functions["adapt"]
            engine, before = onnx_engine(folder), references[0]
            references = [reference_of(engine, predict, adapt, before, frames)]
        report("measuring")
        largest = max(sized, key=lambda traced: traced.frames.values)
        plans = measured_plans(folder, list(largest.steps), largest.step_inputs(), largest.suffix)
        sizes = [traced.keep_plans(folder, plans) for traced in sized]
        _write_arrays(folder, model, choices.batch)
        for size, reference in zip(sizes, references, strict=True):
            (folder / size.reference).write_bytes(pack(reference))
        origin = origin_of(model, choices, own.objective, parities, source) | {"targets": reports}
        manifest = replace(
            manifest_of(path, folder, tuple(plans), own, sizes, model, choices, origin),
            targets=targets.bindings(),
            teaching=teaching_of(model, reading),
        )
        (folder / MANIFEST).write_bytes(to_json(manifest))
        manifest = calibrated(
            folder, railed(folder, manifest, model, report), model, choices, report
        )
        manifest = limited(folder, manifest, model, report)
        (folder / MANIFEST).write_bytes(to_json(manifest))
        open_bundle(folder)  # what a device would refuse is not written
    return parities[0]


def _write_graphs(
    folder: Path, sized: list[TracedGraphs], others: Mapping[str, onnx.ModelProto]
) -> None:
    """Graphs for all sizes and other engines, and the weights that they share."""
    every = [graph for traced in sized for graph in traced.graphs.values()]
    (folder / WEIGHTS).write_bytes(share_weights([*every, *others.values()]))
    for traced in sized:
        traced.write(folder)
    for name, graph in others.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))


def _write_arrays(folder: Path, model: AdaptiveModel, batch: int) -> None:
    """The generic block, and keys of the source."""
    (folder / GENERIC).parent.mkdir()
    generic = {name: value.detach().numpy() for name, value in model.block().items()}
    (folder / GENERIC).write_bytes(pack(generic))
    if (keys := source_keys(model, batch)) is not None:
        (folder / SOURCE).write_bytes(pack(keys.arrays()))
