"""Feed-forward layers of language models, and memories beside them.

Source: Pouransari et al., arXiv 2510.02375. A memory is further inner columns of the layer: with
M1, M2 and M3 behind those of the layer, its output is the layer's plus the memory's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemem.block import Array
from edgemem.bundle.text.memory_spec import SEPARATE, MemorySpec
from edgemem.errors import AttachError, InputError

Placement = Literal["late", "uniform"]
PLACEMENTS = ("late", "uniform")
# Names of the parts of a feed-forward layer: into it, beside that (a gate), out of it, activation.
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
PLAIN = ("c_fc", "c_proj", "act")
NUMBER = re.compile(r"\d+")
SPREAD = 0.02  # standard deviation of new columns, as of the layers of most language models


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward layer. gated: M3 (act(M1 x) * M2 x); else M3 act(M1 x)."""

    name: str
    module: nn.Module
    activation: Callable[[Tensor], Tensor]
    width: int
    gated: bool


def feed_forward_layers(network: nn.Module) -> tuple[FeedForward, ...]:
    """The feed-forward layers of a language model, in its order, one in each of its layers.

    Raises:
        AttachError: there are none that are known, or not one in each layer.
    """
    found = [layer for name, module in network.named_modules() if (layer := _known(name, module))]
    config: Any = network.config
    count = int(config.num_hidden_layers)
    looked = f"looked for modules with {', '.join(GATED)}, or with {', '.join(PLAIN)}"
    if len(found) != count or len({NUMBER.sub("#", layer.name) for layer in found}) != 1:
        reason = f"has {len(found)} known feed-forward modules in {count} layers; {looked}"
        remedy = "Use a model of the Llama, Qwen, Gemma, GPT-2 or SmolLM family"
        raise AttachError(type(network).__name__, reason, remedy)
    return tuple(found)


def placed(
    layers: Sequence[FeedForward], count: int, placement: Placement = "late"
) -> tuple[FeedForward, ...]:
    """The layers that get memories: the last `count`, or as many at even distances.

    Raises:
        InputError: no such placement, or not so many layers.
    """
    if placement not in PLACEMENTS:
        known = " or ".join(PLACEMENTS)
        raise InputError(f"placement {placement!r}", "is unknown", f"Use {known}")
    if not 1 <= count <= len(layers):
        raise InputError(f"{count} layers", "cannot have memories", f"Use 1 to {len(layers)}")
    if placement == "late":
        return tuple(layers[len(layers) - count :])
    return tuple(layers[((2 * n + 1) * len(layers)) // (2 * count)] for n in range(count))


def named_layers(network: nn.Module, spec: MemorySpec) -> tuple[FeedForward, ...]:
    """The layers that a spec names.

    Raises:
        AttachError: the network does not have them, or of another form.
    """
    known = {layer.name: layer for layer in feed_forward_layers(network)}
    for name in spec.layers:
        layer = known.get(name)
        if layer is None or (layer.width, layer.gated) != (spec.width, spec.gated):
            reason = f"has no feed-forward layer {name!r} of width {spec.width} as the bank wants"
            raise AttachError(type(network).__name__, reason, "Use the anchor of this bank")
    return tuple(known[name] for name in spec.layers)


def memory(x: Tensor, arrays: Mapping[str, Tensor], layer: FeedForward, place: int) -> Tensor:
    """What one level of a block adds to a layer: x [..., width] -> [..., width].

    Args:
        x: what the layer takes.
        arrays: m1, m2 [layers, width, rank] and m3 [layers, rank, width] of the level.
        layer: that it is beside.
        place: of the layer among those with memories.
    """
    inner = layer.activation(x @ arrays["m1"][place])
    if layer.gated:
        inner = inner * (x @ arrays["m2"][place])
    return inner @ arrays["m3"][place]


@contextmanager
def with_block(
    layers: Sequence[FeedForward], spec: MemorySpec, block: Mapping[str, Tensor]
) -> Iterator[None]:
    """While active, the network answers with a block: the arrays `LEVEL.NAME` of the spec."""
    levels = [
        {array.name: block[f"{number + 1}.{array.name}"] for array in spec.arrays(number).arrays}
        for number, level in enumerate(spec.levels)
        if level.combine == SEPARATE
    ]

    def hook_of(place: int, layer: FeedForward) -> Callable[..., Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for arrays in levels:
                output = output + memory(inputs[0], arrays, layer, place)
            return output

        return add

    handles = [
        layer.module.register_forward_hook(hook_of(place, layer))
        for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def new_block(spec: MemorySpec, random: torch.Generator) -> dict[str, Tensor]:
    """A block that changes nothing, ready to learn: M3 is zero, the others are small."""
    found = {}
    for array in spec.inputs().arrays:
        value = torch.zeros(array.shape)
        if not array.name.endswith(".m3"):
            nn.init.trunc_normal_(value, 0.0, SPREAD, -2 * SPREAD, 2 * SPREAD, generator=random)
        found[array.name] = value
    return found


def tensors_of(block: Mapping[str, Array]) -> dict[str, Tensor]:
    """The arrays of a block as tensors of their own."""
    return {name: torch.tensor(array) for name, array in block.items()}


def _known(name: str, module: nn.Module) -> FeedForward | None:
    """A module as the feed-forward layer that it is, or None."""
    if all(hasattr(module, part) for part in GATED):
        into: Any = module.gate_proj
        if isinstance(into, nn.Linear):
            activation: Any = module.act_fn
            return FeedForward(name, module, activation, into.in_features, gated=True)
    elif all(hasattr(module, part) for part in PLAIN):
        into, activation = module.c_fc, module.act
        # GPT-2 keeps its weights the other way round.
        weight: Tensor = into.weight
        width = into.in_features if isinstance(into, nn.Linear) else int(weight.shape[0])
        return FeedForward(name, module, activation, width, gated=False)
    return None
