"""The parity check of a bundle of text: the written graph against transformers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from edgemem.block import Array
from edgemem.bundle.text.text_reference import ANCHOR, GENERIC, TextReference
from edgemem.errors import ExportError
from edgemem.export.checks.onnx_graphs import Arrays, run_graph, session
from edgemem.export.language_models.decode_graph import Decoder
from edgemem.models.memory.feed_forward import named_layers, tensors_of, with_block

LIMIT = 1e-4  # of the largest logit
PROMPT, TOKENS = 12, 20  # of them are run at once; the others one by one
LEAST_EFFECT = 1e-3  # of a random block, without which nothing was compared


@dataclass(frozen=True)
class TextParity:
    """Largest differences of logits, relative to the largest logit.

    Attributes:
        anchor: with the zero block, or without memories, against the model as it was given.
        block: with a random and the generic block against the model with memories in torch; 0
            without memories.
        effect: how far the random block moved the logits.
    """

    anchor: float
    block: float
    effect: float

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def check(self) -> None:
        """Raise ExportError where a difference is above its limit."""
        for what, found in (("anchor", self.anchor), ("block", self.block)):
            if not found <= LIMIT:
                raise ExportError(
                    "parity check",
                    f"{what}: onnxruntime and transformers differ by {found:.1e}, limit {LIMIT:g}",
                    "No bundle was written; report the model",
                )


def check_text_parity(
    graph: Path, decoder: Decoder, generic: Mapping[str, Array] | None
) -> tuple[TextParity, TextReference]:
    """Compare a written graph with transformers, a prompt at once and then token by token.

    generic: the block that belongs to no text; None without memories. Returns the figures, and what
    transformers said, for the reference file.

    Raises:
        ExportError: a difference is above its limit, or memories have no effect.
    """
    opened, anchor, spec = session(graph), decoder.anchor, decoder.spec
    random = torch.Generator().manual_seed(0)
    count = min(TOKENS, anchor.context)
    ids = torch.randint(0, anchor.vocabulary, (1, count), generator=random)
    plain = _transformers(decoder, ids, None)
    zero = {} if spec is None else dict(spec.inputs().zero())
    at_rest = relative(run_text(opened, decoder, ids.numpy(), zero), plain)
    told = {ANCHOR: plain}
    if generic is None:
        found = TextParity(at_rest, 0.0, 0.0)
    else:
        told[GENERIC] = _transformers(decoder, ids, dict(generic))
        block = random_block(decoder)
        moved = _transformers(decoder, ids, block)
        off = relative(run_text(opened, decoder, ids.numpy(), block), moved)
        usual = relative(run_text(opened, decoder, ids.numpy(), generic), told[GENERIC])
        found = TextParity(at_rest, max(off, usual), relative(moved, plain))
        if not found.effect >= LEAST_EFFECT:
            raise ExportError(
                "parity check",
                f"a random block moves logits by {found.effect:.1e} only",
                "Choose other layers for the memories",
            )
    found.check()
    return found, TextReference(ids[0].numpy(), told)


def random_block(decoder: Decoder) -> Arrays:
    """A block whose memories are about as large as what the layers themselves add."""
    assert decoder.spec is not None
    random, width = np.random.default_rng(0), decoder.spec.width
    return {
        array.name: (random.standard_normal(array.shape) / np.sqrt(width)).astype(np.float32)
        for array in decoder.spec.inputs().arrays
    }


def run_text(
    graph: onnxruntime.InferenceSession, decoder: Decoder, ids: Array, block: Mapping[str, Array]
) -> Array:
    """Logits [n, vocabulary] of ids [1, n], as a device computes them."""
    past: Arrays = {
        given.name: np.zeros(
            [0 if isinstance(size, str) else size for size in given.shape], np.float32
        )
        for given in decoder.past_inputs()
    }
    fixed = {f"block.{name}": array for name, array in block.items()}
    total, parts = ids.shape[1], list[Array]()
    for first, last in [(0, min(PROMPT, total)), *((n, n + 1) for n in range(PROMPT, total))]:
        given = {
            "ids": ids[:, first:last],
            "position": np.arange(first, last)[None],
            "asked": np.arange(last - first),
        }
        found = run_graph(graph, given | past | fixed)
        parts.append(found.pop("logits")[0])
        past = {name.removeprefix("next."): value for name, value in found.items()}
    return np.concatenate(parts)


def relative(found: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number that is expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _transformers(decoder: Decoder, ids: torch.Tensor, block: Arrays | None) -> Array:
    """Logits [n, vocabulary] of the whole text at once, with masks that transformers makes."""
    with ExitStack() as stack, torch.no_grad():
        if block is not None and decoder.spec is not None:
            layers = named_layers(decoder.anchor.network, decoder.spec)
            stack.enter_context(with_block(layers, decoder.spec, tensors_of(block)))
        logits: Array = decoder.anchor.network(input_ids=ids, use_cache=False).logits[0].numpy()
    return logits
