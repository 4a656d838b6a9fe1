"""Optimisers as pure functions of block, gradient and slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemem.models.joint_arrays import Arrays, Joint, small

JOINED = "joined"  # name of all small arrays as one


@dataclass(frozen=True)
class Optimizer:
    """The rule from gradients to the next block.

    Attributes:
        slots: block -> slots at zero, by name.
        update: (block, gradients, slots, hyper-parameters) -> (next block, next slots).
        elementwise: whether every number follows from its own gradient and slots alone, and each
            slot is named KIND.ARRAY or belongs to none; small arrays are updated as one then.
    """

    name: str
    hyper_parameters: dict[str, float]
    slots: Callable[[Arrays], Arrays]
    update: Callable[[Arrays, Arrays, Arrays, Mapping[str, Tensor]], tuple[Arrays, Arrays]]
    elementwise: bool = False


def updated(
    optimizer: Optimizer, block: Arrays, grads: Arrays, slots: Arrays, hp: Mapping[str, Tensor]
) -> tuple[Arrays, Arrays]:
    """What the optimiser's own update gives, with small arrays as one where that is the same."""
    vectors = small(block) if optimizer.elementwise else {}
    if not vectors:
        return optimizer.update(block, grads, slots, hp)
    joint, others = Joint(vectors), {k: v for k, v in block.items() if k not in vectors}
    kinds = [k.removesuffix(JOINED) for k in optimizer.slots({JOINED: block[next(iter(vectors))]})]
    kinds = [kind for kind in kinds if kind.endswith(".")]  # the others belong to no array

    def joined(arrays: Arrays, prefix: str = "") -> Arrays:
        own = {name: arrays[f"{prefix}{name}"] for name in vectors}
        return {f"{prefix}{JOINED}": joint.vector(own)}

    def parted(arrays: Arrays, prefix: str = "") -> Arrays:
        parts = joint.parts(arrays[f"{prefix}{JOINED}"])
        return {f"{prefix}{name}": part for name, part in parts.items()}

    held = slots | {k: v for kind in kinds for k, v in joined(slots, kind).items()}
    moved, new = optimizer.update(
        joined(block) | others, joined(grads) | {k: grads[k] for k in others}, held, hp
    )
    stepped = parted(moved) | moved
    new |= {k: v for kind in kinds for k, v in parted(new, kind).items()}
    return {k: stepped[k] for k in block}, {k: new[k] for k in slots}


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

    defaults = {"learning_rate": learning_rate, "momentum": 0.9}
    return Optimizer("sgd", defaults, slots, update, elementwise=True)


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
    return Optimizer("adam", defaults, slots, update, elementwise=True)


OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {"sgd": sgd, "adam": adam}
