"""Graphs for other engines beside those for onnxruntime.

Each is compared with torch, each has a report.

They are for one batch size, in operators that phones and NPUs have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgemem.block import Array
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import FILLED, LITERT, NPU, Binding
from edgemem.bundle.reference_frames import reference_frames
from edgemem.errors import EdgeMemError, ExportError
from edgemem.export.checks.onnx_graphs import Arrays, Call, Engine
from edgemem.export.checks.parity import check_parity
from edgemem.export.checks.parity_result import LATER_TOLERANCE
from edgemem.export.functions.class_reading import Reading
from edgemem.export.functions.forward import Function
from edgemem.export.functions.predict_adapt import key_function, predict_function
from edgemem.export.targets.litert import FILE, require_converter, write_litert
from edgemem.export.targets.mobile import partitions
from edgemem.export.tracing.trace import to_onnx
from edgemem.models.adaptive.adaptive_model import AdaptiveModel

if TYPE_CHECKING:
    import onnx

    from edgemem.runtime.engines.protocol import Backend, Graph

# What `--target` may say, and the set of graphs that it adds.
EXPORTS = {"onnx": "onnx", "litert": LITERT, "qnn": NPU, "coreml": NPU}
OF_NPUS = "_npu"  # end of the names of their graphs
RUBBISH = 7.0  # in rows that only fill a batch up


def check_targets(wanted: Sequence[str]) -> None:
    """Refuse targets that are unknown, or whose converter is missing, before work begins.

    Raises:
        ExportError: an unknown target.
        MissingExtraError: the converter to LiteRT is not installed.
    """
    for name in wanted:
        if name not in EXPORTS:
            raise ExportError(f"target {name!r}", "is unknown", f"Use {', '.join(EXPORTS)}")
    if "litert" in wanted:
        require_converter()


class Targets:
    """The graphs of the wanted targets."""

    def __init__(
        self,
        model: AdaptiveModel,
        functions: Mapping[str, Function],
        wanted: Sequence[str],
        frames: FrameSpec,
        reading: Reading | None = None,
    ) -> None:
        self._model, self._frames, self._wanted = model, frames, wanted
        x = torch.zeros(frames.batch, *frames.shape)
        self._functions = {
            "predict": predict_function(model, x, static=True, reading=reading),
            "adapt": functions["adapt"],
        }
        if "key" in functions:
            self._functions["key"] = key_function(model, x, static=True)
        self._sets = {EXPORTS[name] for name in wanted} - {"onnx"}
        self._bound: dict[str, dict[str, Binding]] = {}

    def graphs(self, report: Callable[[str], None]) -> dict[str, onnx.ModelProto]:
        """Those that are ONNX, by name."""
        from edgemem.export.weights import strip_notes

        found = {}
        for name, function in self._functions.items() if NPU in self._sets else ():
            report(f"tracing {name} for NPUs")
            found[f"{name}{OF_NPUS}"] = to_onnx(function, portable=True)
        for graph in found.values():
            strip_notes(graph)
        return found

    def write(
        self, folder: Path, exercise: Mapping[str, float], report: Callable[[str], None]
    ) -> dict[str, Any]:
        """Write what is not ONNX, and compare all; a report for each set.

        Raises:
            ExportError: a target cannot be converted, or misses the parity check.
        """
        reports = {}
        if LITERT in self._sets:
            report("converting to LiteRT")
            self._bound[LITERT] = write_litert(self._functions, folder / FILE)
            reports[LITERT] = self._litert_report(folder, exercise)
        if NPU in self._sets:
            self._bound[NPU] = {name: Binding(f"{name}{OF_NPUS}.onnx") for name in self._functions}
            report("comparing graphs for NPUs")
            reports[NPU] = self._npu_report(folder, exercise)
        return reports

    def bindings(self) -> dict[str, dict[str, Binding]]:
        """For the manifest."""
        return self._bound

    def _litert_report(self, folder: Path, exercise: Mapping[str, float]) -> dict[str, Any]:
        from edgemem.runtime.engines.litert_engine import LiteRtBackend

        backend = LiteRtBackend(threads=1)
        parity = self._compared(folder, backend, LITERT, exercise)
        return {
            "bytes": (folder / FILE).stat().st_size,
            "compared_by": backend.name,
            "parity": parity,
        }

    def _npu_report(self, folder: Path, exercise: Mapping[str, float]) -> dict[str, Any]:
        """In single precision on the CPU; and how much of it other engines take."""
        from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
        from edgemem.runtime.engines.providers import PROVIDERS, missing

        paths = {name: folder / item.file for name, item in self._bound[NPU].items()}
        found: dict[str, Any] = {
            "bytes": sum(path.stat().st_size for path in paths.values()),
            "parity": self._compared(folder, OnnxRuntimeBackend(1), NPU, exercise),
        }
        if "coreml" in self._wanted:
            found |= partitions(paths)
        if "qnn" in self._wanted and missing(PROVIDERS["qnn"]) is None:
            backend = OnnxRuntimeBackend(1, provider="qnn")
            try:
                found["qnn"] = {name: backend.open(path).nodes for name, path in paths.items()}
            except EdgeMemError as error:  # what an NPU refuses here another may take
                found["qnn"] = str(error)
        return found

    def _compared(
        self, folder: Path, backend: Backend, target: str, exercise: Mapping[str, float]
    ) -> dict[str, Any]:
        engine: Engine = {
            name: functools.partial(_run, backend.open(folder / item.file, item))
            for name, item in self._bound[target].items()
        }
        predict, adapt = self._functions["predict"], self._functions["adapt"]
        parity, _ = check_parity(engine, self._model, predict, adapt, self._frames, exercise)
        parity.check(backend.name)
        for name in engine.keys() - {"adapt"}:
            self._check_filled(name, engine[name], backend.name)
        return parity.as_dict()

    def _check_filled(self, name: str, call: Call, engine: str) -> None:
        """Half a batch of frames, and rubbish in the other rows."""
        function, half = self._functions[name], self._frames.batch // 2
        x = reference_frames(self._frames, seed=0)
        x[half:] = RUBBISH
        given = {"x": torch.from_numpy(x), FILLED: torch.tensor(float(half))}
        inputs = function.inputs | given
        with torch.no_grad():
            values = function.call(*(inputs[key] for key in function.inputs))
        found = call(inputs)
        for output, value in zip(function.outputs, values, strict=True):
            rows = half if output == "logits" else None
            expected, other = value.numpy()[:rows], found[output][:rows]
            scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
            difference = float(np.abs(other - expected).max(initial=0.0)) / scale
            if not difference <= LATER_TOLERANCE:
                raise ExportError(
                    "parity check",
                    f"{output} of {name!r} on half a batch: {engine} and torch differ by "
                    f"{difference:.1e}, limit {LATER_TOLERANCE:.0e}",
                    "No bundle was written; report the model",
                )


def _run(graph: Graph, inputs: Mapping[str, Tensor | Array]) -> Arrays:
    return graph.run({name: np.asarray(inputs[name]) for name in graph.inputs})
