"""LiteRT on the CPU.

By `ai-edge-litert` or, where that is what the device has, `tflite-runtime`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.block import Array, Arrays
from edgemem.bundle.checked_files import Files, OwnFiles
from edgemem.bundle.manifest import LITERT, Binding
from edgemem.errors import BundleError, MissingExtraError
from edgemem.forks import never_free_in_child
from edgemem.runtime.engines.protocol import TensorSpec

PACKAGES = ("ai_edge_litert", "tflite_runtime")
REMEDY = "Update the package, or export the bundle again"


def interpreter_class() -> tuple[type[Any], str]:
    """LiteRT's interpreter, and the name and version of the package that has it.

    Raises:
        MissingExtraError: neither package is installed.
    """
    reason: ImportError | None = None
    for package in PACKAGES:
        try:
            module = importlib.import_module(f"{package}.interpreter")
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != package:
                reason = error  # it is here, and does not load
            continue
        version = getattr(importlib.import_module(package), "__version__", "")
        return module.Interpreter, f"{package.replace('_', '-')} {version}".strip()
    raise MissingExtraError(PACKAGES[0].replace("_", "-"), "litert") from reason


class LiteRtGraph:
    """One signature of a LiteRT file; its tensors are bound by position."""

    def __init__(self, interpreter: Any, binding: Binding, thing: str) -> None:
        self._thing, self._names = thing, binding
        self._runner = interpreter.get_signature_runner(binding.signature)
        taken, given = self._runner.get_input_details(), self._runner.get_output_details()
        if set(taken) != {f"args_{k}" for k in range(len(binding.inputs))} or set(given) != {
            f"output_{k}" for k in range(len(binding.outputs))
        }:
            reason = f"has {len(taken)} inputs and {len(given)} outputs, unlike its manifest"
            raise BundleError(thing, reason, "Export the bundle again")
        self.inputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(
                tuple(int(size) for size in taken[f"args_{k}"]["shape"]),
                np.dtype(taken[f"args_{k}"]["dtype"]).name,
            )
            for k, name in enumerate(binding.inputs)
        }
        self.outputs = binding.outputs

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name."""
        try:
            values = self._runner(
                **{
                    f"args_{k}": np.asarray(feeds[name])
                    for k, name in enumerate(self._names.inputs)
                }
            )
        except (ValueError, RuntimeError) as error:
            raise BundleError(
                self._thing, f"fails to run ({error})", "Export the bundle again"
            ) from error
        # LiteRT gives numpy's scalars where an output has no dimension.
        return {name: np.asarray(values[f"output_{k}"]) for k, name in enumerate(self.outputs)}


class LiteRtBackend:
    """Opens signatures of LiteRT files, each file once.

    threads: 0 = LiteRT's choice. files: where they come from; None = they are our own, and nobody
    vouches for them.

    Raises:
        MissingExtraError: LiteRT is not installed.
    """

    target = LITERT

    def __init__(self, threads: int = 0, files: Files | None = None) -> None:
        self._files = files or OwnFiles()
        self._interpreter, self.name = interpreter_class()
        self._threads = threads or None
        self._opened: dict[Path, Any] = {}
        never_free_in_child(self)

    def open(self, path: Path, binding: Binding | None = None) -> LiteRtGraph:
        """Open a signature; raises BundleError."""
        thing = f"{path.parent.name}/{path.name}"
        if binding is None:
            raise BundleError(thing, "has no names for its tensors", "Export the bundle again")
        try:
            if path not in self._opened:
                content = self._files.read(path)  # the interpreter holds on to these bytes
                self._opened[path] = self._interpreter(
                    model_content=content, num_threads=self._threads
                )
            return LiteRtGraph(self._opened[path], binding, thing)
        except (ValueError, RuntimeError, KeyError) as error:
            raise BundleError(thing, f"is refused by {self.name} ({error})", REMEDY) from error
