"""`export_bundle`: trace, write, check against torch, and only then put the bundle in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from edgemem.block import ArraySpec, BlockSpec, pack
from edgemem.bundle.manifest import FileRecord, FrameSpec, HyperParameter, Manifest, Plan, Teaching
from edgemem.bundle.manifest_file import MANIFEST, to_json
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.errors import InputError
from edgemem.export.checks.calibrating import calibrated
from edgemem.export.checks.onnx_graphs import onnx_engine
from edgemem.export.checks.parity import Parity, check_at_rest, check_learn, check_parity
from edgemem.export.checks.way_out import with_way_out
from edgemem.export.choices import Choices, check_choices, frame_spec, functions_of, settled
from edgemem.export.functions.class_reading import FRAMES, READS, SUMS, Reading, teachable
from edgemem.export.functions.forward import Function
from edgemem.export.functions.objective import Objective
from edgemem.export.lowering.table import Untraceable
from edgemem.export.memory_plans import check_plans, measured_plans, plan_graphs
from edgemem.export.other_tasks import railed, task_spec
from edgemem.export.targets.integer import reference_of, rewritten
from edgemem.export.targets.target_graphs import OF_NPUS, Targets
from edgemem.export.trace import to_onnx
from edgemem.export.weights import FILE as WEIGHTS
from edgemem.export.weights import share_weights, strip_notes
from edgemem.files.atomic import new_folder, sha256_file
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.norms.remembered import CLASS_PRIOR
from edgemem.models.warmup.source_keys import source_keys

GENERIC = "bank/generic.safetensors"
REFERENCE = "reference.safetensors"
SOURCE = "source.safetensors"
TAUGHT_SHARE = 0.5  # of what is taught in one context, for all contexts at once


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
        strip_notes(graph)
    elsewhere = Targets(model, functions, choices.targets, frames, reading)
    others = elsewhere.graphs(report)
    exact = copy.deepcopy(models | others) if choices.int8 is not None else {}
    with new_folder(path) as folder:
        report("writing")
        (folder / WEIGHTS).write_bytes(share_weights([*models.values(), *others.values()]))
        for name, graph in (models | others).items():
            (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
        report("comparing with torch")
        compared = functions["predict"], functions["adapt"], frames, objective.exercise
        parity, reference = check_parity(onnx_engine(folder), model, *compared)
        parity.check()
        inputs = functions["adapt"].inputs | {"x": torch.from_numpy(reference_frames(frames, 0))}
        check_plans(folder, list(steps), inputs)
        if reading is not None:
            check_learn(folder / "learn.onnx", functions["learn"], frames)
        reports = elsewhere.write(folder, objective.exercise, report)
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
        plans = measured_plans(folder, list(steps), inputs)
        for name in set(steps) - {plan.graph for plan in plans}:
            (folder / f"{name}.onnx").unlink()
        (folder / "bank").mkdir()
        generic = {name: value.detach().numpy() for name, value in model.block().items()}
        (folder / GENERIC).write_bytes(pack(generic))
        if (keys := source_keys(model, choices.batch)) is not None:
            (folder / SOURCE).write_bytes(pack(keys.arrays()))
        (folder / REFERENCE).write_bytes(pack(reference))
        origin = _origin(model, choices, objective, parity, source) | {"targets": reports}
        block = _spec(_named("block", functions["adapt"]), model.learned())
        manifest = _manifest(path, folder, tuple(plans), functions, block, frames, choices, origin)
        manifest = replace(
            manifest, targets=elsewhere.bindings(), teaching=_teaching(model, reading)
        )
        (folder / MANIFEST).write_bytes(to_json(manifest))
        manifest = calibrated(
            folder, railed(folder, manifest, model, report), model, choices, report
        )
        (folder / MANIFEST).write_bytes(to_json(manifest))
        open_bundle(folder)  # what a device would refuse is not written
    return parity


def _teaching(model: AdaptiveModel, reading: Reading | None) -> Teaching | None:
    if reading is None:
        return None
    arrays = [SUMS, FRAMES, *([CLASS_PRIOR] if model.remembered() else [])]
    return Teaching(reading.capacity, tuple(arrays), TAUGHT_SHARE, READS)


def _manifest(
    path: Path,
    folder: Path,
    plans: tuple[Plan, ...],
    functions: Mapping[str, Function],
    block: BlockSpec,
    frames: FrameSpec,
    choices: Choices,
    origin: dict[str, Any],
) -> Manifest:
    adapt = functions["adapt"]
    defaults = {n: float(v) for f in functions.values() for n, v in _named("hp", f).items()}
    defaults |= dict(choices.hyper_parameters or {})
    task = origin.pop("task_spec")
    classes = int(origin.pop("classes"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return Manifest(
        name=path.name.removesuffix(".edgemem"),
        graphs={
            file.stem: file.name
            for file in sorted(folder.glob("*.onnx"))
            if not file.stem.endswith(OF_NPUS)
        },
        plans=plans,
        frames=frames,
        labels=choices.labels or tuple(str(i) for i in range(classes)),
        task=task,
        familiar=task is None,
        block=block,
        slots=_spec(_named("opt", adapt)),
        # Law 4: every scalar at zero means source statistics and no learning.
        hyper_parameters={n: HyperParameter(v, 0.0) for n, v in defaults.items()},
        key=int(origin.pop("key")),
        stats=tuple(n.removeprefix("stat.") for n in adapt.outputs if n.startswith("stat.")),
        generic_block=GENERIC,
        reference=REFERENCE,
        source=SOURCE if (folder / SOURCE).exists() else None,
        files={
            p.relative_to(folder).as_posix(): FileRecord(p.stat().st_size, sha256_file(p))
            for p in files
        },
        exported_from=origin,
    )


def _origin(
    model: AdaptiveModel,
    choices: Choices,
    objective: Objective,
    parity: Parity,
    source: Mapping[str, Any],
) -> dict[str, Any]:
    with torch.no_grad():
        output = model(torch.zeros(2, *model.attachment.input_shape))
    attachment = model.attachment
    return {
        **source,
        "task_spec": task_spec(model, output),
        "classes": output.logits.shape[1] if attachment.task == "classes" else 0,
        "task": attachment.task,
        "key": output.key.numel(),
        "warm": model.warm,
        "parts": list(attachment.parts),
        "statistics": attachment.statistics,
        "outputs": attachment.outputs,
        "norm_affine": attachment.norm_affine,
        "normalization": vars(attachment.normalization) if attachment.normalization else None,
        "gradient": choices.gradient,
        "learn": choices.learn,
        "objective": objective.name,
        "optimizer": choices.optimizer
        if isinstance(choices.optimizer, str)
        else choices.optimizer.name,
        "parity": parity.as_dict(),
        "tools": {"torch": torch.__version__, "onnx": onnx.__version__},
    }


def _named(prefix: str, function: Function) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): v for n, v in function.inputs.items() if n.startswith(start)}


def _spec(arrays: dict[str, torch.Tensor], learned: Collection[str] = ()) -> BlockSpec:
    return BlockSpec(
        tuple(
            ArraySpec(
                name,
                tuple(value.shape),
                str(value.dtype).removeprefix("torch."),
                learns=name in learned,
            )
            for name, value in arrays.items()
        )
    )
