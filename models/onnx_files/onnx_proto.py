"""The bytes of an ONNX file: parsed, and bounded by what is on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from edgemem.errors import CheckpointError
from edgemem.files.untrusted import require_file
from edgemem.models.onnx_files.operators.calls import Host

MOST_BYTES = 1 << 31  # of a file of this kind
MOST_SHARED = 4  # times the bytes on disk, where several weights share some
OLDEST_OPSET = 9
STANDARD = ("", "ai.onnx")
FROM_TORCH = "Export from the torch model instead: --model package.module:factory"


def refused(path: Path, reason: str, remedy: str = FROM_TORCH) -> CheckpointError:
    """An error about a file."""
    return CheckpointError(str(path), reason, remedy)


def damaged(path: Path, what: object) -> CheckpointError:
    """An error about a file that cannot be read."""
    return refused(path, f"is not a readable ONNX model ({what})", "Get a fresh copy")


def load_proto(path: Path) -> onnx.ModelProto:
    """The model of a file, with the weights that lie beside it.

    Raises:
        CheckpointError: damaged, too large, or with weights outside of its folder.
    """
    size = require_file(path, CheckpointError)
    if size > MOST_BYTES:
        raise refused(
            path, f"is larger than {MOST_BYTES:,} bytes", "Keep its weights in a file beside it"
        )
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the parser's own errors
        raise damaged(path, error) from error
    tensors = list(_tensors(model.graph))
    beside = _check_beside(path, tensors)
    total = sum(math.prod(tensor.dims) * _bytes(tensor) for tensor in tensors)
    if total > MOST_SHARED * (size + beside):
        raise damaged(path, f"weights of {total:,} bytes in {size + beside:,}")
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # of the package onnx, in several types
        raise damaged(path, str(error).strip().splitlines()[0]) from error
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _bytes(tensor: onnx.TensorProto) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError, TypeError):
        return 1


def _check_beside(path: Path, tensors: list[onnx.TensorProto]) -> int:
    """Bytes of the files with weights beside a model.

    Raises CheckpointError for one that does not lie there.
    """
    folder, found = path.parent.resolve(), {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        about = {entry.key: entry.value for entry in tensor.external_data}
        place = about.get("location", "")
        file = (folder / place).resolve()
        if not place or Path(place).is_absolute() or not file.is_relative_to(folder):
            raise refused(
                path,
                f"has weights in {place!r}, outside of its folder",
                "Put the file of weights beside it, and save it again with that name",
            )
        if place not in found:
            found[place] = require_file(file, CheckpointError)
    return sum(found.values())


def opset_of(path: Path, model: onnx.ModelProto) -> int:
    """The version of its operators.

    Raises CheckpointError for one that is too old or too new.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = next((versions[name] for name in STANDARD if name in versions), 0)
    newest = onnx.defs.onnx_opset_version()
    if version < OLDEST_OPSET:
        raise refused(
            path,
            f"has opset {version}, older than {OLDEST_OPSET}",
            "Export it again with opset 13 or later",
        )
    if version > newest:
        raise refused(path, f"has opset {version}, newer than {newest}", "Update the package onnx")
    return int(version)


def inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own: their nodes stand where they are called."""
    if not model.functions:
        return model
    try:
        import onnx.inliner

        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise damaged(path, f"functions that do not fit: {error}") from error


def array_of(path: Path, tensor: onnx.TensorProto) -> Host:
    """A constant of a file.

    Raises CheckpointError where its bytes do not fit its shape.
    """
    try:
        return np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # damaged numbers fail in every way there is
        raise damaged(path, f"weight {tensor.name!r}: {error}") from error
