"""`export_bundle`: trace, write, check against torch, and only then put the bundle in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from edgemem.block import pack
from edgemem.bundle.manifest import REMEMBER, FrameSpec
from edgemem.bundle.manifest_file import to_json
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.bundle.sealed_document import MANIFEST
from edgemem.errors import InputError
from edgemem.export.bundle_manifest import (
    GENERIC,
    REFERENCE,
    SOURCE,
    manifest_of,
    origin_of,
    teaching_of,
)
from edgemem.export.checks.calibrating import calibrated
from edgemem.export.checks.calibrating_share import limited
from edgemem.export.checks.onnx_graphs import Arrays, onnx_engine
from edgemem.export.checks.parity import check_at_rest, check_learn, check_parity, check_remember
from edgemem.export.checks.parity_result import Parity
from edgemem.export.checks.way_out import with_way_out
from edgemem.export.choices import Choices, check_choices, frame_spec, functions_of, settled
from edgemem.export.functions.class_reading import Reading, teachable
from edgemem.export.functions.forward import Function
from edgemem.export.functions.objective import Objective
from edgemem.export.lowering.table import Untraceable
from edgemem.export.memory_plans import check_plans, measured_plans, plan_graphs
from edgemem.export.other_tasks import railed
from edgemem.export.targets.integer import reference_of, rewritten
from edgemem.export.targets.target_graphs import Targets
from edgemem.export.trace import to_onnx
from edgemem.export.turned_kernels import turn_on_load
from edgemem.export.weights import FILE as WEIGHTS
from edgemem.export.weights import share_weights, strip_notes
from edgemem.files.atomic import new_folder
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.tensor_rows import named_tensors, of_array
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
    check_at_rest(model, frames)
    functions, objective = functions_of(model, choices, frames, reading)
    models = {}
    for name, function in functions.items():
        report(f"tracing {name}")
        try:
            models[name] = to_onnx(function)
        except Untraceable as error:
            raise with_way_out(error, name, model, choices, frames, reading) from error
    report("planning memory")
    steps = plan_graphs(models["adapt"])
    models |= steps
    for graph in models.values():
        turn_on_load(graph)
        strip_notes(graph)
    targets = Targets(model, functions, choices.targets, frames, reading)
    others = targets.graphs(report)
    exact = copy.deepcopy(models | others) if choices.int8 is not None else {}
    with new_folder(path) as folder:
        report("writing")
        _write_graphs(folder, models, others)
        report("comparing with torch")
        parity, reference = _compared(folder, model, functions, objective, frames, list(steps))
        reports = targets.write(folder, objective.exercise, report)
        if choices.int8 is not None:
            report("quantising")
            reports["int8"] = rewritten(
                folder,
                exact,
                [kernel.detach().numpy() for kernel in model.kernels()],
                functions["predict"],
                to_float(choices.int8).numpy(),
                choices.batch,
            )
            reference = reference_of(
                onnx_engine(folder), functions["predict"], functions["adapt"], reference, frames
            )
        report("measuring")
        plans = measured_plans(folder, list(steps), _step_inputs(functions, frames))
        for name in set(steps) - {plan.graph for plan in plans}:
            (folder / f"{name}.onnx").unlink()
        _write_arrays(folder, model, choices.batch, reference)
        origin = origin_of(model, choices, objective, parity, source) | {"targets": reports}
        manifest = replace(
            manifest_of(path, folder, tuple(plans), functions, model, frames, choices, origin),
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
    return parity


def _write_graphs(
    folder: Path, models: Mapping[str, onnx.ModelProto], others: Mapping[str, onnx.ModelProto]
) -> None:
    """Graphs of this and other engines, and the weights that they share."""
    (folder / WEIGHTS).write_bytes(share_weights([*models.values(), *others.values()]))
    for name, graph in {**models, **others}.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))


def _compared(
    folder: Path,
    model: AdaptiveModel,
    functions: Mapping[str, Function],
    objective: Objective,
    frames: FrameSpec,
    steps: list[str],
) -> tuple[Parity, Arrays]:
    """Written graphs beside torch: the figures, and torch's outputs for the reference file."""
    engine = onnx_engine(folder)
    predict, adapt = functions["predict"], functions["adapt"]
    parity, reference = check_parity(engine, model, predict, adapt, frames, objective.exercise)
    parity.check()
    check_plans(folder, steps, _step_inputs(functions, frames))
    if REMEMBER in functions:
        check_remember(folder / f"{REMEMBER}.onnx", functions[REMEMBER], frames, parity.rounding)
    if "learn" in functions:
        check_learn(folder / "learn.onnx", functions["learn"], frames, parity.rounding)
    return parity, reference


def _step_inputs(functions: Mapping[str, Function], frames: FrameSpec) -> dict[str, torch.Tensor]:
    """Inputs of a step on reference frames."""
    return functions["adapt"].inputs | named_tensors(of_array(reference_frames(frames, 0)))


def _write_arrays(folder: Path, model: AdaptiveModel, batch: int, reference: Arrays) -> None:
    """The generic block, keys of the source, and what torch answered on reference frames."""
    (folder / GENERIC).parent.mkdir()
    generic = {name: value.detach().numpy() for name, value in model.block().items()}
    (folder / GENERIC).write_bytes(pack(generic))
    if (keys := source_keys(model, batch)) is not None:
        (folder / SOURCE).write_bytes(pack(keys.arrays()))
    (folder / REFERENCE).write_bytes(pack(reference))
