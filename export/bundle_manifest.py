"""What a bundle says of itself: its files, block, hyper-parameters, and what it was made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from edgemem.block import ArraySpec, BlockSpec
from edgemem.bundle.frame_spec import FrameSize
from edgemem.bundle.manifest import FileRecord, HyperParameter, Manifest, Plan, Teaching
from edgemem.export.checks.parity_result import Parity
from edgemem.export.choices import Choices
from edgemem.export.functions.class_reading import FRAMES, READS, SUMS, Reading
from edgemem.export.functions.forward import Function
from edgemem.export.functions.objective import Objective
from edgemem.export.other_tasks import task_spec
from edgemem.export.traced_graphs import TracedGraphs
from edgemem.files.atomic import sha256_file
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.norms.remembered import CLASS_PRIOR

GENERIC = "bank/generic.safetensors"
SOURCE = "source.safetensors"
TAUGHT_SHARE = 0.5  # of what is taught in one context, for all contexts at once


def teaching_of(model: AdaptiveModel, reading: Reading | None) -> Teaching | None:
    """What a device needs to know to teach classes."""
    if reading is None:
        return None
    arrays = [SUMS, FRAMES, *([CLASS_PRIOR] if model.remembered() else [])]
    return Teaching(reading.capacity, tuple(arrays), TAUGHT_SHARE, READS)


def manifest_of(
    path: Path,
    folder: Path,
    plans: tuple[Plan, ...],
    traced: TracedGraphs,
    sizes: Sequence[FrameSize],
    model: AdaptiveModel,
    choices: Choices,
    origin: dict[str, Any],
) -> Manifest:
    """The manifest of what lies in a folder.

    traced: of the model's own size. sizes: the files of each, that first. origin: see `origin_of`,
    which is used up.
    """
    functions = traced.functions
    adapt = functions["adapt"]
    defaults = {n: float(v) for f in functions.values() for n, v in _named("hp", f).items()}
    defaults |= dict(choices.hyper_parameters or {})
    task, classes = origin.pop("task_spec"), int(origin.pop("classes"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return Manifest(
        name=path.name.removesuffix(".edgemem"),
        graphs=sizes[0].graphs,
        plans=plans,
        frames=replace(traced.frames, sizes=tuple(sizes[1:])),
        labels=choices.labels or tuple(str(i) for i in range(classes)),
        block=_spec(_named("block", adapt), model.learned()),
        slots=_spec(_named("opt", adapt)),
        # Law 4: every scalar at zero means source statistics and no learning.
        hyper_parameters={n: HyperParameter(v, 0.0) for n, v in defaults.items()},
        key=int(origin.pop("key")),
        stats=tuple(n.removeprefix("stat.") for n in adapt.outputs if n.startswith("stat.")),
        generic_block=GENERIC,
        reference=sizes[0].reference,
        source=SOURCE if (folder / SOURCE).exists() else None,
        files={
            p.relative_to(folder).as_posix(): FileRecord(p.stat().st_size, sha256_file(p))
            for p in files
        },
        exported_from=origin,
        task=task,
        familiar=task is None or task.knows_certainty,
    )


def origin_of(
    model: AdaptiveModel,
    choices: Choices,
    objective: Objective,
    parities: Sequence[Parity],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """What a bundle was made from, how, and how near torch it is, at each size of frames."""
    with torch.no_grad():
        output = model(model.attachment.example(2))
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
        "sites": list(attachment.sites),
        "measured": attachment.measured,
        "outputs": attachment.outputs,
        "norm_affine": attachment.norm_affine,
        "normalization": vars(attachment.normalization) if attachment.normalization else None,
        "gradient": choices.gradient,
        "learn": choices.learn,
        "objective": objective.name,
        "optimizer": choices.optimizer
        if isinstance(choices.optimizer, str)
        else choices.optimizer.name,
        "parity": parities[0].as_dict(),
        "parity_of_sizes": [parity.as_dict() for parity in parities[1:]],
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
