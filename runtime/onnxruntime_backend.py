"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from edgemem.block import Array, Arrays
from edgemem.errors import BundleError
from edgemem.runtime.backend import TensorSpec

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int64)": "int64",
}


class OnnxRuntimeGraph:
    """One session."""

    def __init__(self, path: Path, options: onnxruntime.SessionOptions) -> None:
        self._thing = f"{path.parent.name}/{path.name}"
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
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
    """Opens sessions with one set of options.

    threads: 0 = onnxruntime's choice, which is all cores.
    """

    def __init__(self, threads: int = 0) -> None:
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3

    def open(self, path: Path) -> OnnxRuntimeGraph:
        """Open a graph file; raises BundleError."""
        return OnnxRuntimeGraph(path, self._options)
