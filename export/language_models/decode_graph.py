"""The graph `decode`: some tokens and the past of those before, to logits and the next past."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.bundle.text.text_manifest import GraphInput, expected_inputs
from edgemem.export.functions.forward import Arrays, Function, strip
from edgemem.models.memory.anchor import Anchor
from edgemem.models.memory.feed_forward import named_layers, with_block

FULL, SLIDING = "full_attention", "sliding_attention"
# Sizes while tracing: not 0 or 1, which tracing takes for constants, and no two alike.
EXAMPLE = {"new": 5, "past": 7, "asked": 3}


class PastValues:
    """Keys and values of earlier tokens, as the layers of a network ask for them.

    Takes the place of a cache of transformers. earlier: by layer, [1, heads, past, size] each.
    """

    def __init__(self, earlier: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.earlier, self.now = earlier, dict[int, tuple[Tensor, Tensor]]()

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, those of these tokens last."""
        if layer in self.earlier:
            past_keys, past_values = self.earlier[layer]
            keys, values = torch.cat([past_keys, keys], 2), torch.cat([past_values, values], 2)
        self.now[layer] = keys, values
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """Earlier tokens."""
        return self.earlier[layer][0].shape[2] if layer in self.earlier else 0


@dataclass(frozen=True)
class Decoder:
    """What the graph computes, in torch: an anchor with the memories of a spec, if any."""

    anchor: Anchor
    spec: MemorySpec | None

    def past_inputs(self) -> tuple[GraphInput, ...]:
        """The inputs that hold the past, as one run of the network shows them."""
        seen = PastValues({})
        ids = torch.zeros(1, 2, dtype=torch.int64)
        with torch.no_grad():
            self.anchor.network(
                input_ids=ids,
                position_ids=torch.arange(2)[None],
                attention_mask=self._masks(2, 0),
                past_key_values=seen,
                use_cache=True,
            )
        return tuple(
            GraphInput(f"past.{layer}.{kind}", "float32", _free(value))
            for layer, pair in sorted(seen.now.items())
            for kind, value in zip("kv", pair, strict=True)
        )

    def call(self, values: Arrays) -> tuple[Tensor, ...]:
        """Logits [1, asked, vocabulary], then the next past, from the inputs by name."""
        earlier, network = PastValues(_by_layer(strip("past", values))), self.anchor.network
        ids = values["ids"]
        with self._memories(strip("block", values)):
            output = network(
                input_ids=ids,
                position_ids=values["position"],
                attention_mask=self._masks(ids.shape[1], earlier.get_seq_length()),
                past_key_values=earlier,
                use_cache=True,
                logits_to_keep=values["asked"],
            )
        now = [value for _, pair in sorted(earlier.now.items()) for value in pair]
        return (output.logits, *now)

    def function(self) -> Function:
        """Ready to trace; `new`, `past` and `asked` are sizes that every run chooses."""
        past = self.past_inputs()
        inputs = expected_inputs(past, self.spec)
        names = tuple(given.name for given in inputs)

        def call(*values: Tensor) -> tuple[Tensor, ...]:
            return self.call(dict(zip(names, values, strict=True)))

        axes = {
            given.name: {n: size for n, size in enumerate(given.shape) if isinstance(size, str)}
            for given in inputs
        }
        outputs = ("logits", *(f"next.{given.name}" for given in past))
        free = {name: named for name, named in axes.items() if named}
        return Function(_example(inputs), outputs, call, dynamic_batch=False, axes=free)

    @contextmanager
    def _memories(self, block: Arrays) -> Iterator[None]:
        if self.spec is None:
            yield
            return
        layers = named_layers(self.anchor.network, self.spec)
        with with_block(layers, self.spec, block):
            yield

    def _masks(self, new: int, past: int) -> Tensor | dict[str, Tensor]:
        """What every new token sees: itself and what is before it, in the network's form."""
        config = self.anchor.config
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        if not kinds:
            return _mask(new, past, window)
        return {FULL: _mask(new, past, None), SLIDING: _mask(new, past, window)}


def _mask(new: int, past: int, window: int | None) -> Tensor:
    """[1, 1, new, past + new]: zero where a token sees another, else the lowest number."""
    query = torch.arange(new)[:, None] + past
    key = torch.arange(past + new)[None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    hidden = torch.full((), torch.finfo(torch.float32).min)
    return torch.where(seen, torch.zeros(()), hidden)[None, None]


def _free(value: Tensor) -> tuple[int | str, ...]:
    """The shape of keys or values, with their axis of tokens."""
    return (1, int(value.shape[1]), "past", int(value.shape[3]))


def _by_layer(past: Arrays) -> dict[int, tuple[Tensor, Tensor]]:
    layers = {int(name.partition(".")[0]) for name in past}
    return {layer: (past[f"{layer}.k"], past[f"{layer}.v"]) for layer in layers}


def _example(inputs: tuple[GraphInput, ...]) -> Arrays:
    random, found = torch.Generator().manual_seed(0), {}
    for given in inputs:
        shape = [EXAMPLE[size] if isinstance(size, str) else size for size in given.shape]
        if given.dtype == "int64":
            found[given.name] = torch.zeros(shape, dtype=torch.int64)
        else:
            found[given.name] = 0.1 * torch.randn(shape, generator=random)
    found["position"] += torch.arange(EXAMPLE["new"]) + EXAMPLE["past"]
    found["asked"] += torch.arange(EXAMPLE["asked"])
    return found
