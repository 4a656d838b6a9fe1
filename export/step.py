"""The two pure functions that become graphs: `predict` and the adaptation step `adapt`.

Both take and return flat tuples of tensors; their names are the graph contract's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad

from edgemem.export.objective import Objective
from edgemem.export.optimizer import Optimizer
from edgemem.models.adaptive import AdaptiveModel, Gradient, Output

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Function:
    """A pure function with named inputs and outputs, ready to trace.

    inputs: name -> example value, in order. outputs: names, in order.
    dynamic_batch: whether x may hold any number of frames.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    call: Callable[..., tuple[Tensor, ...]]
    dynamic_batch: bool


def hyper_parameters(
    model: AdaptiveModel, batch: int, objective: Objective, optimizer: Optimizer
) -> dict[str, float]:
    """Names and defaults of all scalars that the device may tune."""
    return _alpha(model, batch) | optimizer.hyper_parameters | objective.hyper_parameters


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """Names with the prefix of the graph contract."""
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


def predict_function(model: AdaptiveModel, frames: Tensor) -> Function:
    """x, block -> logits, key; for any number of frames.

    Fewer frames than a full batch carry less weight against the source statistics, in proportion.
    """
    block = _detached(model.block())
    scalars = {name: torch.tensor(v) for name, v in _alpha(model, frames.shape[0]).items()}
    inputs = {"x": frames, **prefixed("block", block), **prefixed("hp", scalars)}
    full = float(frames.shape[0])

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        alpha = values.get("hp.alpha")
        if alpha is not None:
            count = (x.flatten(1)[:, 0] * 0.0 + 1.0).sum()
            alpha = alpha * (count / full).clamp(max=1.0)
        output = _forward(model, _strip("block", values), x, alpha)
        return output.logits, output.key

    return Function(inputs, ("logits", "key"), call, dynamic_batch=True)


def adapt_function(
    model: AdaptiveModel,
    frames: Tensor,
    objective: Objective,
    optimizer: Optimizer,
    gradient: Gradient,
) -> Function:
    """x, block, slots, hyper-parameters -> logits, key, next block, next slots, stats.

    The logits are those before the update. Where the objective says so (no reliable sample),
    block and slots come back unchanged.
    """
    block = _detached(model.block())
    slots = optimizer.slots(block)
    defaults = hyper_parameters(model, frames.shape[0], objective, optimizer)
    inputs = {
        "x": frames,
        **prefixed("block", block),
        **prefixed("opt", slots),
        **prefixed("hp", {name: torch.tensor(value) for name, value in defaults.items()}),
    }
    stat_names: list[str] = []

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        old_block, old_slots = _strip("block", values), _strip("opt", values)
        hp = _strip("hp", values)

        def loss(arrays: Arrays) -> tuple[Tensor, tuple[Tensor, ...]]:
            output = _forward(model, arrays, x, hp.get("alpha"), gradient)
            result = objective.loss(output, hp)
            stat_names[:] = [*result.stats, "loss", "updated"]
            updated = result.update.to(x.dtype)
            stats = (*result.stats.values(), result.value, updated)
            return result.value, (output.logits, output.key, result.update, *stats)

        grads, (logits, key, update, *stats) = grad(loss, has_aux=True)(old_block)
        new_block, new_slots = optimizer.update(old_block, grads, old_slots, hp)
        next_block = [torch.where(update, new_block[k], old_block[k]) for k in block]
        next_slots = [torch.where(update, new_slots[k], old_slots[k]) for k in slots]
        return (logits, key, *next_block, *next_slots, *stats)

    call(*inputs.values())  # names the stats, and fails early in plain torch
    outputs = (
        "logits",
        "key",
        *prefixed("next.block", block),
        *prefixed("next.opt", slots),
        *(f"stat.{name}" for name in stat_names),
    )
    return Function(inputs, outputs, call, dynamic_batch=False)


def _alpha(model: AdaptiveModel, batch: int) -> dict[str, float]:
    alpha = model.alpha(batch)
    return {} if alpha is None else {"alpha": alpha}


def _forward(
    model: AdaptiveModel,
    block: Arrays,
    x: Tensor,
    alpha: Tensor | None,
    gradient: Gradient = "full",
) -> Output:
    model.gradient = gradient
    try:
        output: Output = functional_call(model, block, (x, alpha))
    finally:
        model.gradient = "full"
    return output


def _detached(arrays: Arrays) -> Arrays:
    return {name: value.detach().clone() for name, value in arrays.items()}


def _strip(prefix: str, values: Arrays) -> Arrays:
    start = f"{prefix}."
    return {n.removeprefix(start): v for n, v in values.items() if n.startswith(start)}
