"""The graphs of a bundle as one LiteRT file with a signature for each."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from edgemem.bundle.manifest import Binding
from edgemem.errors import EdgeMemError, ExportError, MissingExtraError
from edgemem.export.functions.forward import Function
from edgemem.export.tracing.trace import traced

FILE = "litert.tflite"


def require_converter() -> Any:
    """The converter's package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with _quiet():
            return importlib.import_module("litert_torch")
    except ImportError as error:
        raise MissingExtraError("litert_torch", "export-litert") from error


def write_litert(functions: Mapping[str, Function], path: Path) -> dict[str, Binding]:
    """Convert functions of one batch size into one file; how their tensors are bound.

    The converter keeps the order of inputs and outputs, not their names.

    Raises:
        ExportError: a function that LiteRT has no operators for.
    """
    require_converter()
    interface = importlib.import_module("litert_torch._convert.interface")
    converter = interface.Converter()
    try:
        with _quiet():
            for name, function in functions.items():
                graph = traced(function, portable=True)
                values = tuple(value.detach() for value in function.inputs.values())
                converter.signature(name, graph, values)
            converter.convert(strict_export=False).export(str(path))
    except EdgeMemError:
        raise
    except Exception as error:
        said = next(iter(str(error).splitlines()), "no message")
        raise ExportError(
            "target 'litert'",
            f"cannot be converted ({type(error).__name__}: {said})",
            "Leave this target out",
        ) from error
    return {
        name: Binding(path.name, name, tuple(function.inputs), function.outputs)
        for name, function in functions.items()
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter prints its progress and the advice of the libraries under it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
