"""What is fixed at export, whether it fits, and the functions that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import REMEMBER
from edgemem.bundle.manifest_checks import MOST_FRAME_BYTES
from edgemem.errors import ExportError
from edgemem.export.frame_sizes import check_sizes
from edgemem.export.functions.class_reading import Reading
from edgemem.export.functions.forward import Function
from edgemem.export.functions.learn import HYPER_PARAMETERS as LEARNING
from edgemem.export.functions.learn import learn_function
from edgemem.export.functions.objective import OBJECTIVES, Objective
from edgemem.export.functions.optimizer import OPTIMIZERS, Optimizer
from edgemem.export.functions.predict_adapt import (
    adapt_function,
    hyper_parameters,
    key_function,
    predict_function,
)
from edgemem.export.other_tasks import check_task
from edgemem.export.targets.target_graphs import check_targets
from edgemem.files.typed_json import LONGEST_TEXT
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import Gradient, Learn
from edgemem.printable import shown

KNOWN_COMPANIONS = 15  # beside a frame, where the block remembers statistics
MOST_VALUES = MOST_FRAME_BYTES // 8  # of the frames of a step; a manifest allows two such batches
LARGEST_RATE = 1e6
LEARNING_RATES = {"sgd": 3e-4, "adam": 1e-4}
# Part of these where too few source frames tell whether steps do harm; less where small batches
# take more steps on as many frames.
UNCALIBRATED, ENOUGH = 0.1, 16


@dataclass(frozen=True)
class Choices:
    """What is fixed at export.

    Attributes:
        batch: frames in one adaptation step.
        gradient: "meta", where the frozen parts are constants in the backward pass (little dearer
            than inference), or "full", through them.
        learn: "all", or scales and shifts of "norms" alone; the convolutions of meta networks are
            constants then, which engines run faster.
        objective: a name, or your own; None = "likelihood_ratio" for classes, "statistics" for
            every other task. The defaults are what does best over the protocols of
            `benchmarks/adaptation`; "meta", "all" and "ecotta" are cheaper and gain less.
        optimizer: a name, or your own.
        learning_rate: default of `hp.learning_rate`; None = the largest that source frames of the
            warm-up allow (`calibrating`); a small one without two batches of them.
        hyper_parameters: other defaults by name.
        labels: class names in the order of the logits; None = those of the model.
        targets: other engines that get graphs of their own, see `targets.EXPORTS`; onnx is always
            there.
        max_classes: room for so many classes, the model's own included, so that a device can be
            taught new ones (`learn`); None = none can be taught.
        int8: source frames [n, ...] (uint8 or float32) with which frozen kernels are quantised in
            ONNX graphs; None = they stay in full precision.
        sizes: further shapes of one frame, beside the model's own; every one has graphs of its own.
    """

    batch: int = 16
    gradient: Gradient = "full"
    learn: Learn = "norms"
    objective: str | Objective | None = None
    optimizer: str | Optimizer = "sgd"
    learning_rate: float | None = None
    hyper_parameters: Mapping[str, float] | None = None
    labels: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ("onnx",)
    int8: NDArray[Any] | None = None
    max_classes: int | None = None
    sizes: tuple[tuple[int, ...], ...] = ()


def settled(model: AdaptiveModel, choices: Choices) -> Choices:
    """The choices with those that follow from the model."""
    if choices.objective is not None:
        return choices
    own = model.attachment.task == "classes"
    return replace(choices, objective="likelihood_ratio" if own else "statistics")


def check_choices(model: AdaptiveModel, choices: Choices) -> None:
    """Refuse what does not fit, before work begins.

    Raises:
        ExportError: naming the choice.
        MissingExtraError: a target needs a package that is not installed.
    """
    if model.attachment.task != "classes":
        check_task(model, choices)
    check_targets(choices.targets)
    if not model.attachment.plain:
        _check_plain(model, choices)
    _check_sizes(model, choices)
    if choices.int8 is not None:
        if "litert" in choices.targets:
            raise ExportError(
                "int8 and target 'litert'",
                "do not go together: LiteRT's graphs would stay exact",
                "Export two bundles",
            )
        _check_frames(choices.int8, model.attachment.input_shape, choices.batch)
    _check_numbers(model, choices)
    if choices.gradient not in ("full", "meta"):
        raise ExportError(f"gradient {choices.gradient!r}", "is unknown", "Use full or meta")
    if choices.learn not in ("all", "norms"):
        raise ExportError(f"learn {choices.learn!r}", "is unknown", "Use all or norms")
    if choices.gradient == "meta" and model.attachment.norm_affine:
        raise ExportError(
            "gradient 'meta'",
            "treats frozen parts as constants, so it cannot train the BN affine pairs within",
            "Use --gradient full, or leave out --norm-affine",
        )
    if None not in (choices.labels, model.labels) and choices.labels != model.labels:
        raise ExportError(
            f"labels {', '.join(choices.labels or ())}",
            f"contradict those of the source data: {', '.join(model.labels or ())}",
            "Leave them out, or warm up again with labels in the model's order",
        )
    if model.attachment.outputs in ("one logit", "one probability") and not model.warm:
        raise ExportError(
            "model",
            "has a single output, and was not warmed up: nobody has compared what it says about "
            "two classes with labels",
            "Warm up with labelled source frames, or let the model return two logits: "
            "torch.cat([torch.zeros_like(z), z], 1). Where it is a number and no class: "
            "--task regression",
        )
    if not model.block():
        raise ExportError(
            "model",
            "has no array that adapts",
            "Attach at least one part, or pass --norm-affine: scales and shifts of its norms",
        )


def _check_plain(model: AdaptiveModel, choices: Choices) -> None:
    """Refuse what is made for float32 frames alone."""
    what = "token ids" if model.attachment.ids is not None else "inputs beside the frames"
    for name, chosen in (
        ("int8", choices.int8 is not None),
        ("target", tuple(choices.targets) != ("onnx",)),
        ("sizes", choices.sizes != ()),
    ):
        if chosen:
            raise ExportError(name, f"is not there yet for models with {what}", "Leave it out")


def _check_sizes(model: AdaptiveModel, choices: Choices) -> None:
    """Refuse sizes that do not fit, and what is made for one size alone."""
    given = {
        "target": tuple(choices.targets) != ("onnx",),
        "int8": choices.int8 is not None,
        "max_classes": choices.max_classes is not None,
    }
    alone = next((name for name, chosen in given.items() if chosen), None)
    if choices.sizes and alone is not None:
        reason = "is not there yet for bundles of several sizes"
        raise ExportError(alone, reason, "Leave it out, or export one bundle for each size")
    check_sizes(model.attachment.input_shape, choices.sizes, choices.batch, MOST_VALUES)


def _check_numbers(model: AdaptiveModel, choices: Choices) -> None:
    thing = f"batch {shown(choices.batch)}"
    if choices.batch < 2:
        raise ExportError(thing, "is too small for a step", "Use 2 or more")
    if choices.batch * frame_spec(model, choices).values > MOST_VALUES:
        reason = f"makes steps of more than {MOST_VALUES:,} values"
        raise ExportError(thing, reason, "Use a smaller one")
    rate = choices.learning_rate
    if rate is not None and not 0 <= rate <= LARGEST_RATE:
        raise ExportError(f"learning rate {rate}", "is out of range", f"Use 0 to {LARGEST_RATE:g}")
    for name, value in (choices.hyper_parameters or {}).items():
        if not math.isfinite(value):
            raise ExportError(f"hyper-parameter {name!r}", f"is {value}", "Use a finite number")


def _check_frames(frames: NDArray[Any], shape: tuple[int, ...], batch: int) -> None:
    if frames.shape[1:] != shape or len(frames) < batch or not np.isfinite(frames).all():
        raise ExportError(
            "frames for int8",
            f"are {list(frames.shape)}, not {batch} or more finite ones of {list(shape)}",
            "Pass source frames as the model takes them",
        )


def _chosen(choice: Any, known: Mapping[str, Callable[..., Any]], kind: str, *args: Any) -> Any:
    if not isinstance(choice, str):
        return choice
    if choice not in known:
        raise ExportError(f"{kind} {choice!r}", "is unknown", f"Use {' or '.join(known)}")
    return known[choice](*args)


def _check_block(model: AdaptiveModel, objective: Objective) -> None:
    """Refuse an objective for which the block has no place."""
    thing, classes = f"objective {objective.name!r}", model.attachment.task == "classes"
    if (not objective.learns or objective.of_moments) and not model.remembered():
        remedy = "Warm up" if classes else "Attach or export"
        raise ExportError(
            thing, "needs a block that remembers", f"{remedy} with --statistics remembered"
        )
    if objective.subspace and classes:
        raise ExportError(thing, "is for numbers, and the task is classes", "Use likelihood_ratio")
    if objective.learns and not classes and not model.learned():
        raise ExportError(
            thing, "finds nothing in the block that learns", "Use --norm-affine, or statistics"
        )


def functions_of(
    model: AdaptiveModel, choices: Choices, frames: FrameSpec, reading: Reading | None = None
) -> tuple[dict[str, Function], Objective]:
    """The graphs to be, by name, and what the step minimises. reading: how taught classes are read.

    Raises:
        ExportError: a name or a hyper-parameter that is unknown, or labels that do not fit.
    """
    x = model.attachment.example(frames.batch)
    with torch.no_grad():
        classes = model.frozen_logits(x[:2]).shape[1]
    choices = settled(model, choices)
    if choices.labels is not None and len(choices.labels) != classes:
        raise ExportError(
            "labels", f"are {len(choices.labels)} names for {classes} classes", "Name every class"
        )
    for name in choices.labels or ():
        if len(name) > LONGEST_TEXT:
            reason = f"has more than {LONGEST_TEXT:,} characters"
            raise ExportError(f"label {shown(name)}", reason, "Shorten it")
    rate = choices.learning_rate
    if rate is None:
        rate = LEARNING_RATES.get(str(choices.optimizer), 1e-3)
        if not can_calibrate(model, choices.batch):
            rate *= UNCALIBRATED * min(1.0, choices.batch / ENOUGH)
    objective: Objective = _chosen(choices.objective, OBJECTIVES, "objective", classes)
    _check_block(model, objective)
    optimizer: Optimizer = _chosen(choices.optimizer, OPTIMIZERS, "optimizer", rate)
    known = hyper_parameters(model, choices.batch, objective, optimizer)
    if reading is not None and objective.learns:
        known |= LEARNING
    if unknown := sorted(set(choices.hyper_parameters or {}) - set(known)):
        raise ExportError(
            f"hyper-parameter {unknown[0]!r}", "is unknown", f"There are {', '.join(known)}"
        )
    adapt = adapt_function(model, x, objective, optimizer, choices.gradient, reading)
    functions = {"predict": predict_function(model, x, reading=reading), "adapt": adapt}
    if objective.learns and model.remembered():
        functions[REMEMBER] = adapt_function(
            model, x, objective, optimizer, choices.gradient, reading, learning=False
        )
    if model.source_moments is not None:
        functions["key"] = key_function(model, x)
    if reading is not None:
        functions["learn"] = learn_function(
            model, x, reading, choices.gradient, learns=objective.learns
        )
    return functions, objective


def can_calibrate(model: AdaptiveModel, batch: int) -> bool:
    """Whether steps can be tried: on two batches of source frames or more, each of one class."""
    frames = model.source_frames
    known = model.attachment
    tells = known.task == "classes" and known.ids is None  # no synthetic shift is one of token ids
    return tells and frames is not None and len(frames) >= 2 * batch


def frame_spec(model: AdaptiveModel, choices: Choices) -> FrameSpec:
    """The frames of the bundle."""
    known = model.source_range
    return FrameSpec(
        shape=model.attachment.input_shape,
        batch=choices.batch,
        companions=model.alpha(choices.batch) is not None,
        known_companions=KNOWN_COMPANIONS if model.remembered() else choices.batch,
        source_range=None
        if known is None
        else (tuple(known[0].tolist()), tuple(known[1].tolist())),
        ids=model.attachment.ids,
        inputs=model.attachment.inputs,
    )
