"""What the runtime asks of an inference engine: open a graph, bind by name, run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgemem.block import Array, Arrays
from edgemem.bundle.manifest import Binding


@dataclass(frozen=True)
class TensorSpec:
    """Shape (None = any size) and dtype of one input of a graph."""

    shape: tuple[int | None, ...]
    dtype: str


class Graph(Protocol):
    """One opened graph."""

    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name: arrays of their own, which the caller keeps."""


class Backend(Protocol):
    """An inference engine.

    Attributes:
        name: what it is and where it runs, for people.
        target: the set of a bundle's graphs that it runs.
    """

    name: str
    target: str

    def open(self, path: Path, binding: Binding | None = None) -> Graph:
        """Open a graph file.

        binding: names of its inputs and outputs, where the file has none of its own.

        Raises:
            BundleError: the engine refuses it.
        """
