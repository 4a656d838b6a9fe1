"""Graphs as onnxruntime runs them by default, for comparisons at export."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from torch import Tensor

from edgemem.block import Array
from edgemem.errors import ExportError

Arrays = dict[str, Array]
Call = Callable[[Mapping[str, Tensor | Array]], Arrays]
Engine = Mapping[str, Call]  # by graph


def onnx_engine(folder: Path, suffix: str = "") -> Engine:
    """The graphs of a folder, by onnxruntime; raises ExportError.

    suffix: of their files' names.
    """
    sessions = {name: session(folder / f"{name}{suffix}.onnx") for name in ("predict", "adapt")}
    return {name: functools.partial(run_graph, opened) for name, opened in sessions.items()}


def run_graph(graph: onnxruntime.InferenceSession, inputs: Mapping[str, Tensor | Array]) -> Arrays:
    """All outputs of a graph by name; inputs may hold more than it asks for.

    Raises:
        ExportError: onnxruntime cannot run it.
    """
    names = [value.name for value in graph.get_outputs()]
    feeds = {value.name: np.asarray(inputs[value.name]) for value in graph.get_inputs()}
    try:
        return dict(zip(names, graph.run(names, feeds), strict=True))
    except Exception as error:
        first = str(error).splitlines()[0]
        raise ExportError("graph", f"fails in onnxruntime ({first})", "Report the model") from error


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph file as onnxruntime runs it by default; raises ExportError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            path.name, f"is refused by onnxruntime ({error})", "Report this"
        ) from error
