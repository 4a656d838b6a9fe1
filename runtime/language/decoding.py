"""Runs the graph `decode`: tokens in, logits out, keys and values kept between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays
from edgemem.bundle.text.text_opening import TextBundle
from edgemem.errors import BundleError
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.engines.protocol import Graph, TensorSpec

CHUNK = 256  # tokens of a prompt that are run at once: what they need grows with their square
Logits = NDArray[np.float32]


def open_decoder(bundle: TextBundle, threads: int) -> Graph:
    """The graph of a bundle; raises BundleError if it has other inputs than the manifest says."""
    path: Path = bundle.path / bundle.manifest.graph
    graph = OnnxRuntimeBackend(threads, files=bundle.files).open(path)
    expected = {
        given.name: TensorSpec(
            tuple(size if isinstance(size, int) else None for size in given.shape), given.dtype
        )
        for given in bundle.manifest.text.inputs
    }
    outputs = {"logits", *(f"next.{given.name}" for given in bundle.manifest.text.past())}
    if dict(graph.inputs) != expected or set(graph.outputs) != outputs:
        thing = f"{bundle.path.name}/{bundle.manifest.graph}"
        reason = "has other inputs or outputs than the manifest says"
        raise BundleError(thing, reason, "Export the bundle again")
    return graph


class Decoding:
    """One text as it grows, with the block that it is read with."""

    def __init__(self, graph: Graph, bundle: TextBundle, block: Mapping[str, Array]) -> None:
        self._graph, self._thing = graph, f"{bundle.path.name}/{bundle.manifest.graph}"
        self._block: Arrays = {f"block.{name}": array for name, array in block.items()}
        self._past: Arrays = {
            given.name: np.zeros(
                [0 if isinstance(size, str) else size for size in given.shape], np.float32
            )
            for given in bundle.manifest.text.past()
        }
        self.length = 0

    def add(self, ids: Sequence[int], asked: int = 1) -> Logits:
        """Logits [asked, vocabulary] of what follows each of the last `asked` of these tokens.

        Raises:
            BundleError: the graph fails, or gives logits that are not finite.
        """
        parts, most = list[Logits](), len(ids) - asked
        for first in range(0, len(ids), CHUNK):
            part = ids[first : first + CHUNK]
            wanted = np.arange(max(most - first, 0), len(part))
            if found := self._run(part, wanted):
                parts += found
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            remedy = "Leave the memories out: block off"
            raise BundleError(self._thing, "gives logits that are not finite", remedy)
        return logits

    def _run(self, ids: Sequence[int], wanted: Array) -> list[Logits]:
        """Logits of the wanted places of some tokens, if any."""
        places = np.arange(self.length, self.length + len(ids))
        asked = wanted if len(wanted) else np.zeros(1, np.int64)  # engines dislike empty results
        given = {"ids": np.array([ids], np.int64), "position": places[None], "asked": asked}
        found = self._graph.run(given | self._past | self._block)
        logits = found.pop("logits")[0]
        self._past = {name.removeprefix("next."): value for name, value in found.items()}
        self.length += len(ids)
        return [logits] if len(wanted) else []
