"""The parity check: a written bundle, run by onnxruntime, against the same step in torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgemem.block import Array
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import CLOSED, FILLED, LABELS, REMEMBER, SUMMARY
from edgemem.bundle.reference_frames import ASKED, kept, reference_frames
from edgemem.bundle.rows import fields
from edgemem.errors import AttachError, ExportError
from edgemem.export.checks.differences import difference, least, slot_differences, slot_shares
from edgemem.export.checks.in_torch import called, following, off_by_a_bit
from edgemem.export.checks.onnx_graphs import Arrays, Call, Engine, run_graph, session
from edgemem.export.checks.parity_result import (
    LATER_TOLERANCE,
    SLOT_TOLERANCE,
    Parity,
    adapted_tolerance,
    rounding_of,
    slot_tolerance,
    tolerance,
)
from edgemem.export.functions.forward import Function, answer_names
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.inspection.untouched import check_untouched, known_source
from edgemem.models.tasks.task_outputs import summary
from edgemem.models.tensor_rows import (
    Frames,
    named_tensors,
    of_array,
    repeated,
    split,
)

STEPS = 20
BATCHES = 10
IN_FLOAT64 = 4  # batches of source frames, by which it is seen how much the given model rounds


def check_parity(
    engine: Engine,
    model: AdaptiveModel,
    predict: Function,
    adapt: Function,
    frames: FrameSpec,
    exercise: Mapping[str, float],
) -> tuple[Parity, Arrays]:
    """Compare written graphs with torch.

    engine: runs `predict` and `adapt`. exercise: hyper-parameters under which a step surely
    updates. Returns the figures, and torch's outputs for the reference file.
    """
    inputs = {name: value.clone() for name, value in adapt.inputs.items()}
    inputs |= {f"hp.{name}": torch.tensor(value) for name, value in exercise.items()}
    inputs |= {name: value for name, value in predict.inputs.items() if name not in inputs}
    differences: dict[str, float] = {}
    slots: dict[str, float] = {}
    source = _source(model, frames)
    rounding = rounding_of(model, [of_array(reference_frames(frames)), *source[:IN_FLOAT64]])
    for seed in range(BATCHES):
        inputs |= named_tensors(of_array(reference_frames(frames, seed)))
        expected, found = called(adapt, inputs), engine["adapt"](inputs)
        # Slots are gradients, which have a limit of their own, relative to their size.
        names = [name for name in adapt.outputs if not name.startswith("next.opt.")]
        now = {name: difference(found[name], expected[name]) for name in names}
        differences = least(differences, now)
        slots = least(slots, _slots(adapt, inputs, found, expected))
        worst = max(differences, key=differences.__getitem__)
        worst_slot = max(slots.values(), default=0.0)
        if differences[worst] <= tolerance(rounding) and worst_slot <= SLOT_TOLERANCE:
            break
    frozen, given = _frozen(engine, model, predict, of_array(reference_frames(frames, seed)))
    others = [_frozen(engine, model, predict, x)[0] for x in source]
    predicted, told = engine["predict"](inputs), answer_names(model)
    in_torch = called(predict, inputs)
    after: dict[str, float] = {}
    for first in range(0, BATCHES * STEPS, STEPS):
        now, updated = _run_steps(engine["adapt"], adapt, inputs, frames, first)
        after = least(after, now)
        if max(after.values()) <= LATER_TOLERANCE:
            break
    answers = called(predict, inputs | following(expected))
    limit = _adapted_limit(adapt, predict, inputs, answers, rounding)
    adapted = engine["predict"](inputs | following(found))
    figures = Parity(
        frozen=max([frozen, *others]),
        predict=max(difference(predicted[name], in_torch[name]) for name in told),
        first_step=differences[worst],
        worst_output=worst,
        slots=worst_slot,
        batches=seed + 1,
        after_steps=max(after.values()),
        steps=STEPS,
        updated=updated,
        predict_equals_adapt=all((predicted[name] == found[name]).all() for name in told),
        adapted=max(difference(adapted[name], answers[name]) for name in told),
        adapted_limit=limit,
        rounding=rounding,
    )
    reference = {
        "seed": np.asarray(seed, np.int64),
        **_reference("frozen", model, given),
        **_reference("adapt", model, expected),
        **_reference("adapted", model, answers),
        ASKED: np.array([figures.tolerance, figures.tolerance, limit], np.float32),
        **{n: np.asarray(v, np.float32) for n, v in inputs.items() if n.startswith("hp.")},
    }
    return figures, reference


def check_at_rest(model: AdaptiveModel, frames: FrameSpec) -> None:
    """Compare the zero block with the model that was given, both in torch, before work begins.

    Raises:
        ExportError: it names the first module that differs.
    """
    known = known_source(model)
    try:
        check_untouched(model, of_array(reference_frames(frames)))
        if known is not None:
            check_untouched(model, known)
    except AttachError as error:
        raise ExportError(error.thing, error.reason, error.remedy) from error


def check_learn(path: Path, learn: Function, frames: FrameSpec, rounding: float) -> None:
    """Compare the written graph `learn` with torch, on a few labelled frames, others and filler.

    rounding: as `Parity` has it.

    Raises:
        ExportError: an output differs on every one of some batches.
    """
    inputs = dict(learn.inputs)
    capacity = len(inputs["block.prototypes.frames"])
    labels = torch.full((frames.batch,), -1)
    labels[::2] = torch.arange(len(labels[::2])) % capacity
    inputs |= {LABELS: labels, FILLED: torch.tensor(float(frames.batch - frames.batch // 4))}
    inputs |= {"hp.learn_rate": torch.tensor(1e-2)} if "hp.learn_rate" in inputs else {}
    _check_further("learn", path, learn, inputs, frames, tolerance(rounding))


def check_remember(path: Path, remember: Function, frames: FrameSpec, rounding: float) -> None:
    """Compare the written graph `remember` with torch, where frames are remembered already.

    rounding: as `Parity` has it.

    Raises:
        ExportError: an output differs on every one of some batches.
    """
    inputs = remember.inputs | named_tensors(of_array(reference_frames(frames, BATCHES)))
    inputs |= following(called(remember, inputs))
    limit = max(LATER_TOLERANCE, tolerance(rounding))
    _check_further(REMEMBER, path, remember, inputs, frames, limit)


def _check_further(
    name: str,
    path: Path,
    function: Function,
    inputs: dict[str, Tensor],
    frames: FrameSpec,
    limit: float,
) -> None:
    opened, differences = session(path), dict[str, float]()
    for seed in range(BATCHES):
        inputs = inputs | named_tensors(of_array(reference_frames(frames, seed)))
        expected, found = called(function, inputs), run_graph(opened, inputs)
        now = {output: difference(found[output], expected[output]) for output in function.outputs}
        differences = least(differences, now)
        if max(differences.values()) <= limit:
            return
    worst = max(differences, key=differences.__getitem__)
    raise ExportError(
        "parity check",
        f"{worst} of {name!r}: onnxruntime and torch differ by {differences[worst]:.1e}, limit "
        f"{limit:.0e}",
        "No bundle was written; report the model",
    )


def _slots(
    adapt: Function, inputs: Mapping[str, Tensor], found: Arrays, expected: Arrays
) -> dict[str, float]:
    """Differences of slots, divided by what rounding makes of the limit.

    Gradients of some networks are small sums of large numbers: torch's own move by more than the
    limit when frames are off by a last bit.
    """
    slots = slot_differences(found, expected)
    other = off_by_a_bit(inputs)
    if max(slots.values(), default=0.0) <= SLOT_TOLERANCE or other is None:
        return slots
    moved = called(adapt, other)
    rounding, shares = slot_differences(moved, expected), slot_shares(expected)
    limits = {n: slot_tolerance(rounding.get(n, 0.0), shares[n]) for n in slots}
    return {n: off * SLOT_TOLERANCE / limits[n] for n, off in slots.items()}


def _run_steps(
    call: Call,
    adapt: Function,
    inputs: dict[str, Tensor],
    frames: FrameSpec,
    first: int,
) -> tuple[dict[str, float], int]:
    """20 steps, each on both sides from torch's block; differences by array, updates.

    Sides that went on from blocks of their own would part by nothing but rounding where small
    changes grow: torch parts from itself as far.
    first: seed of the first batch.
    """
    state: Arrays = {name: value.numpy() for name, value in inputs.items()}
    differences: dict[str, float] = {}
    updated = 0
    for step in range(first, first + STEPS):
        state |= fields(reference_frames(frames, seed=step))
        expected = called(adapt, {k: torch.from_numpy(v) for k, v in state.items()})
        found = call(state)
        updated += int(expected["stat.updated"])
        for name in (n for n in expected if n.startswith("next.block.")):
            off = difference(found[name], expected[name])
            differences[name] = max(off, differences.get(name, 0.0))
        state |= {name: value.numpy() for name, value in following(expected).items()}
    return differences, updated


def _adapted_limit(
    adapt: Function,
    predict: Function,
    inputs: Mapping[str, Tensor],
    answers: Arrays,
    rounding: float,
) -> float:
    """How far answers after a step may be from torch's."""
    other, moved = off_by_a_bit(inputs), 0.0
    if other is not None:
        later = called(predict, other | following(called(adapt, other)))
        moved = max(difference(later[name], answers[name]) for name in answers if name != "key")
    return adapted_tolerance(rounding, moved)


def _frozen(
    engine: Engine, model: AdaptiveModel, predict: Function, x: Frames
) -> tuple[float, Arrays]:
    """Difference of a graph's frozen answers from those of the model that was given; these."""
    attachment, inputs = model.attachment, _frozen_inputs(predict, x)
    found = engine["predict"](inputs)
    with torch.no_grad():
        untouched = model.untouched_outputs(x)
        if attachment.task != "classes":
            told = summary(attachment.task, model.attachment.scale, untouched, attachment.named)
            given = {f"out.{name}": value.numpy() for name, value in untouched.items()}
            off = [
                difference(found[n], value, model.attachment.floor) for n, value in given.items()
            ]
            return max(off), given | {SUMMARY: told.numpy()}
    logits: Array = untouched["logits"].numpy()
    room = found["logits"].shape[1] - logits.shape[1]  # of classes that can be taught
    logits = np.pad(logits, [(0, 0), (0, room)], constant_values=CLOSED)
    return difference(found["logits"], logits), {"logits": logits}


def _reference(stage: str, model: AdaptiveModel, outputs: Arrays) -> Arrays:
    """The answers among outputs as a reference file holds them."""
    axes = {spec.tensor: spec.axis for spec in model.attachment.named}
    if not axes:
        return {f"{stage}.logits": outputs["logits"]}
    found = {n: np.moveaxis(outputs[n], axes.get(n, 0), 0) for n in answer_names(model)}
    return {f"{stage}.{name}": kept(value) for name, value in found.items()}


def _source(model: AdaptiveModel, frames: FrameSpec) -> list[Frames]:
    """Full batches of source frames, where the model knows any; the first ones fill up the last."""
    known = known_source(model)
    if known is None:
        return []
    batches = -(-len(known) // frames.batch)
    return split(repeated(known, batches * frames.batch), frames.batch)


def _frozen_inputs(predict: Function, x: Frames) -> dict[str, Tensor]:
    zero = {name: torch.zeros_like(value) for name, value in predict.inputs.items()}
    filled = {name: value for name, value in predict.inputs.items() if name == FILLED}
    return {**zero, **filled, **named_tensors(x)}
