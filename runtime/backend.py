"""What the runtime asks of an inference engine: open a graph, bind by name, run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgemem.block import Array, Arrays


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
        """All outputs by name."""


class Backend(Protocol):
    """An inference engine."""

    def open(self, path: Path) -> Graph:
        """Open a graph file.

        Raises:
            BundleError: the engine refuses it.
        """
