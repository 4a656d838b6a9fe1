"""Optimisers as pure functions of block, gradient and slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Optimizer:
    """The rule from gradients to the next block.

    Attributes:
        slots: block -> slots at zero, by name.
        update: (block, gradients, slots, hyper-parameters) -> (next block, next slots).
    """

    name: str
    hyper_parameters: dict[str, float]
    slots: Callable[[Arrays], Arrays]
    update: Callable[[Arrays, Arrays, Arrays, Mapping[str, Tensor]], tuple[Arrays, Arrays]]


def sgd(learning_rate: float) -> Optimizer:
    """SGD with momentum, as torch.optim.SGD without damping or decay."""

    def slots(block: Arrays) -> Arrays:
        return {f"momentum.{name}": torch.zeros_like(value) for name, value in block.items()}

    def update(
        block: Arrays, grads: Arrays, slots: Arrays, hp: Mapping[str, Tensor]
    ) -> tuple[Arrays, Arrays]:
        speed = {k: hp["momentum"] * slots[f"momentum.{k}"] + grads[k] for k in block}
        moved = {k: block[k] - hp["learning_rate"] * speed[k] for k in block}
        return moved, {f"momentum.{k}": v for k, v in speed.items()}

    return Optimizer("sgd", {"learning_rate": learning_rate, "momentum": 0.9}, slots, update)


def adam(learning_rate: float) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1), as torch.optim.Adam."""

    def slots(block: Arrays) -> Arrays:
        first = {f"first.{name}": torch.zeros_like(value) for name, value in block.items()}
        second = {f"second.{name}": torch.zeros_like(value) for name, value in block.items()}
        return first | second | {"steps": torch.zeros(())}

    def update(
        block: Arrays, grads: Arrays, slots: Arrays, hp: Mapping[str, Tensor]
    ) -> tuple[Arrays, Arrays]:
        beta1, beta2 = hp["beta1"], hp["beta2"]
        steps = slots["steps"] + 1.0
        size = hp["learning_rate"] / (1.0 - beta1.pow(steps))
        correction = torch.sqrt(1.0 - beta2.pow(steps))
        moved, next_slots = {}, {"steps": steps}
        for k, value in block.items():
            first = beta1 * slots[f"first.{k}"] + (1.0 - beta1) * grads[k]
            second = beta2 * slots[f"second.{k}"] + (1.0 - beta2) * grads[k] * grads[k]
            # 1e-8 in the denominator, both sides scaled: graph optimisers take x + 1e-8 for x.
            moved[k] = value - size * (1e4 * first) / (1e4 * torch.sqrt(second) / correction + 1e-4)
            next_slots |= {f"first.{k}": first, f"second.{k}": second}
        return moved, next_slots

    defaults = {"learning_rate": learning_rate, "beta1": 0.9, "beta2": 0.999}
    return Optimizer("adam", defaults, slots, update)


OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {"sgd": sgd, "adam": adam}
