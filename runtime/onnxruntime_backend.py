"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from edgemem.block import Array, Arrays
from edgemem.errors import BundleError
from edgemem.runtime.backend import TensorSpec

if TYPE_CHECKING:
    from edgemem.runtime.session_cache import SessionCache

EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # all, but for image layouts
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int64)": "int64",
}


class OnnxRuntimeGraph:
    """One session."""

    def __init__(
        self, path: Path, options: onnxruntime.SessionOptions, skipped: Sequence[str] = ()
    ) -> None:
        self._thing = f"{path.parent.name}/{path.name}"
        try:
            self._session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(skipped),
            )
        except Exception as error:
            raise BundleError(
                self._thing,
                f"is refused by onnxruntime {onnxruntime.__version__} ({error})",
                "Update onnxruntime, or export the bundle again",
            ) from error
        self.inputs: Mapping[str, TensorSpec] = {
            value.name: TensorSpec(
                tuple(size if isinstance(size, int) else None for size in value.shape),
                DTYPES.get(value.type, value.type),
            )
            for value in self._session.get_inputs()
        }
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name."""
        try:
            values = self._session.run(None, feeds)
        except Exception as error:
            raise BundleError(
                self._thing, f"fails to run ({error})", "Export the bundle again"
            ) from error
        return dict(zip(self.outputs, values, strict=True))


class OnnxRuntimeBackend:
    """Opens sessions with one set of options, which docs/performance.md gives reasons for.

    threads: 0 = onnxruntime's choice, which is all cores. profile: "latency", or "memory", where
    weights stay in the mapped file and nothing is kept from one run to the next. cache: where
    optimised graphs are kept; None = nowhere, as in profile "memory", which hardly optimises.
    """

    def __init__(
        self, threads: int = 0, profile: str = "latency", cache: SessionCache | None = None
    ) -> None:
        self._threads, self._profile = threads, profile
        self._cache = cache if profile == "latency" else None

    def open(self, path: Path) -> OnnxRuntimeGraph:
        """Open a graph file; raises BundleError."""
        options, skipped = self._options(), list[str]()
        if self._profile == "memory":
            options.graph_optimization_level = EXTENDED
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
            skipped = ["ConstantFolding"]
        if self._cache is None:
            return OnnxRuntimeGraph(path, options, skipped)
        if (kept := self._cache.find(path.stem)) is None:
            graph = OnnxRuntimeGraph(path, options)
            self._cache.keep(path.stem, path, self._options())
            return graph
        as_it_is = self._options()
        as_it_is.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return OnnxRuntimeGraph(kept, as_it_is)
        except BundleError:  # replaced meanwhile, or refused: the bundle itself is still there
            return OnnxRuntimeGraph(path, options)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised, its advice is for us
        # A pattern of all tensors is allocated beside the arena, not instead of it.
        options.enable_mem_pattern = False
        # Threads of a session that has finished would spin on the cores that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options
