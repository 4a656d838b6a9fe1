"""The two pure functions that become graphs: `predict` and the adaptation step `adapt`.

Both take and return flat tuples of tensors; their names are the graph contract's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp

from edgemem.bundle.further_input import FRAMES as X
from edgemem.bundle.manifest import FILLED
from edgemem.export.functions.class_reading import FRAMES, SEEN, SUMS, Reading
from edgemem.export.functions.forward import (
    Arrays,
    Function,
    answer_names,
    answers,
    detached,
    forward,
    memory_parameters,
    predict_parameters,
    prefixed,
    present_rows,
    rows_of,
    strip,
    weighed_by_frames,
)
from edgemem.export.functions.objective import Loss, Objective
from edgemem.export.functions.optimizer import Optimizer, updated
from edgemem.export.functions.relation import keeping_relations
from edgemem.export.functions.subspace import subspace_of_source
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import Gradient
from edgemem.models.adaptive.outputs import Output
from edgemem.models.joint_arrays import for_each
from edgemem.models.norms import remembered
from edgemem.models.tensor_rows import Frames, named_tensors

# Share of the exported values in what the block learns, after every step.
ENSEMBLING = {"source_share": 0.01}


def hyper_parameters(
    model: AdaptiveModel, batch: int, objective: Objective, optimizer: Optimizer
) -> dict[str, float]:
    """Names and defaults of all scalars that the device may tune."""
    known = predict_parameters(model, batch) | memory_parameters(model)
    if not objective.learns:
        return known
    return known | optimizer.hyper_parameters | objective.hyper_parameters | ENSEMBLING


def predict_function(
    model: AdaptiveModel,
    frames: Frames,
    *,
    static: bool = False,
    reading: Reading | None = None,
) -> Function:
    """x, block -> answers, key; for any number of frames.

    Fewer frames than a full batch carry less weight against the source statistics. static: always
    as many rows as `frames` has, of which the first `FILLED` are frames; the others have no effect.
    reading: how taught classes are answered; None = there is no room for any.
    """
    block = detached(model.block())
    scalars = {n: torch.tensor(v) for n, v in predict_parameters(model, frames.shape[0]).items()}
    inputs = {**named_tensors(frames), **prefixed("block", block), **prefixed("hp", scalars)}
    if static:
        inputs[FILLED] = torch.tensor(float(frames.shape[0]))
    full = float(frames.shape[0])

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        arrays, filled = strip("block", values), values.get(FILLED)
        present = None if filled is None else present_rows(x, filled)
        count = (x.flatten(1)[:, 0] * 0.0 + 1.0).sum() if filled is None else filled
        hp = weighed_by_frames(model, arrays, count, full, strip("hp", values))
        rows = rows_of(x, values)
        output, _ = forward(model, arrays, rows, count, hp, present=present, reading=reading)
        return *answers(model, output, arrays, count, hp, present, reading), output.key

    return Function(inputs, (*answer_names(model), "key"), call, dynamic_batch=not static)


def key_function(model: AdaptiveModel, frames: Frames, *, static: bool = False) -> Function:
    """From x to key; for any number of frames, or `static` as `predict_function`.

    Only the layers before the key are left of the model, and what they take of the inputs.
    """
    inputs = named_tensors(frames)
    optional = frozenset(inputs) - {X}
    if static:
        inputs[FILLED] = torch.tensor(float(frames.shape[0]))

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        filled = values.get(FILLED)
        shares = None if filled is None else present_rows(x, filled) / filled
        output: Output = model(rows_of(x, values), frame_weights=shares)
        return (output.key,)

    return Function(inputs, ("key",), call, dynamic_batch=not static, optional=optional)


def adapt_function(
    model: AdaptiveModel,
    frames: Frames,
    objective: Objective,
    optimizer: Optimizer,
    gradient: Gradient,
    reading: Reading | None = None,
    *,
    learning: bool = True,
) -> Function:
    """x, block, slots, hyper-parameters -> answers, key, next block, next slots, stats.

    The answers are those before the update. Where the objective says so (no reliable sample),
    what the block learns and the slots come back unchanged; what it remembers moves on. Classes
    that were taught come back unchanged always. reading: see `predict_function`. learning: without,
    it is what a step at a learning rate of zero does, and no gradient is computed; next block
    holds only what is remembered then.
    """
    block, learned = detached(model.block()), list(model.learned())
    source = detached(model.learned())  # a copy: tracing takes the block's own arrays for inputs
    following = [name for name in block if learning or name not in learned]
    learning = learning and objective.learns
    slots = optimizer.slots({name: block[name] for name in learned}) if learning else {}
    defaults = hyper_parameters(model, frames.shape[0], objective, optimizer)
    if not learning:
        of_gradient = optimizer.hyper_parameters | ENSEMBLING
        defaults = {name: value for name, value in defaults.items() if name not in of_gradient}
    inputs = {
        **named_tensors(frames),
        **prefixed("block", block),
        **prefixed("opt", slots),
        **prefixed("hp", {name: torch.tensor(value) for name, value in defaults.items()}),
    }
    stat_names: list[str] = []
    subspace = subspace_of_source(model) if objective.subspace else None

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        old_block, old_slots = strip("block", values), strip("opt", values)
        hp, old_learned = strip("hp", values), {name: old_block[name] for name in learned}
        rows = rows_of(x, values)
        count = torch.tensor(float(x.shape[0]))

        def loss(arrays: Arrays) -> tuple[Tensor, tuple[Output, Tensor, Loss]]:
            def run() -> tuple[Output, Tensor]:
                return forward(
                    model, old_block | arrays, rows, count, hp, gradient, reading=reading
                )

            if objective.relation:
                (output, features), extended = keeping_relations(
                    model, run, rows, old_block, reading
                )
                result = extended(objective.loss(output, hp), hp)
            elif subspace is not None:
                (output, features), aligned = subspace.aligned(run)
                result = aligned(objective.loss(output, hp))
            else:
                output, features = run()
                result = objective.loss(output, hp)
            return result.value, (output, features, result)

        new_block, new_slots = dict(old_learned), dict(old_slots)
        if learning:
            (output, features, result), new_block, new_slots = _step(
                loss, old_learned, old_slots, source, optimizer, hp
            )
        else:
            _, (output, features, result) = loss(old_learned)
        told = answers(model, output, old_block, count, hp, None, reading)
        update = finite = result.update
        if model.remembered():  # from every batch that gives finite values, reliable or not
            finite = update | torch.isfinite(result.value)
        new_block |= _noted(model, reading, old_block, output, features, told[0], hp)
        moved = {k: old_block[k] for k in following if k in learned}
        noted = {k: old_block[k] for k in following if k not in learned}
        chosen = _chosen(update, new_block, moved) | _chosen(finite, new_block, noted)
        chosen_slots = _chosen(update, new_slots, old_slots)
        stat_names[:] = [*result.stats, "loss", "updated"]
        stats = (*result.stats.values(), result.value, finite.to(count.dtype))
        next_block, next_slots = [chosen[k] for k in following], chosen_slots.values()
        return (*told, output.key, *next_block, *next_slots, *stats)

    call(*inputs.values())  # names the stats, and fails early in plain torch
    outputs = (
        *answer_names(model),
        "key",
        *prefixed("next.block", {name: block[name] for name in following}),
        *prefixed("next.opt", slots),
        *(f"stat.{name}" for name in stat_names),
    )
    return Function(inputs, outputs, call, dynamic_batch=False)


def _step(
    loss: Callable[[Arrays], tuple[Tensor, tuple[Output, Tensor, Loss]]],
    learned: Arrays,
    slots: Arrays,
    source: Arrays,
    optimizer: Optimizer,
    hp: Arrays,
) -> tuple[tuple[Output, Tensor, Loss], Arrays, Arrays]:
    """One step along the gradient: what the loss gives besides its value, new arrays and slots."""
    value, pullback, found = vjp(loss, learned, has_aux=True)  # type: ignore[misc]
    # One, but not before the forward pass is over: an engine that takes a gradient first
    # and the loss later keeps activations for both.
    over = (value + found[0].key.sum()).detach().clamp(0.0, 0.0)
    (grads,) = pullback(torch.ones_like(value) + over)
    stepped, new_slots = updated(optimizer, learned, grads, slots, hp)
    share = hp["source_share"]
    return found, for_each(lambda v, s: _towards(v, s, share), stepped, source), new_slots


def _chosen(condition: Tensor, new: Arrays, old: Arrays) -> Arrays:
    """The new arrays where the condition holds, else the old ones."""
    return for_each(lambda o, n: torch.where(condition, n, o), old, new)


def _noted(
    model: AdaptiveModel,
    reading: Reading | None,
    old: Arrays,
    output: Output,
    features: Tensor,
    logits: Tensor,
    hp: Arrays,
) -> Arrays:
    """What the block notes of a batch, reliable or not; classes that were taught stay."""
    new: Arrays = {}
    if model.remembered() and model.attachment.task == "classes":
        opened = None if reading is None else reading.opened(old, hp)
        new |= remembered.next_remembered(old, output.seen, output.logits, hp, opened)
    elif model.remembered():
        new |= remembered.next_moments(old, output.seen, hp)
    if reading is not None:
        taken = torch.softmax(logits.detach(), 1)
        new |= {SUMS: old[SUMS], FRAMES: old[FRAMES]}
        new[SEEN] = reading.seen(features.detach(), taken, old)
    return new


def _towards(value: Tensor, source: Tensor, share: Tensor) -> Tensor:
    """Weight ensembling with the source's values (as in ROID, Marsden et al., WACV 2024)."""
    return value + share * (source - value)
