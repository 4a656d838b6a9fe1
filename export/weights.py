"""One weights file for all graphs of a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

FILE = "weights.bin"
ALIGNMENT = 4096  # so that a runtime can map tensors straight from the file
INLINE_BYTES = 1024  # smaller tensors stay in the graph
# So do lists of sizes, such as those of a Split: engines read them before there are weights.
INLINE_SIZES = 1 << 16


def share_weights(models: Iterable[onnx.ModelProto]) -> bytes:
    """Move large constants of the models into one file, each content once; returns its bytes.

    The models are changed: such constants become external data in `weights.bin`.
    """
    import onnx

    content = bytearray()
    offsets: dict[bytes, int] = {}
    for model in models:
        for tensor in model.graph.initializer:
            raw = _raw(tensor)
            sizes = tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
            if len(raw) < (INLINE_SIZES if sizes else INLINE_BYTES):
                continue
            digest = hashlib.sha256(raw).digest()
            if digest not in offsets:
                content.extend(bytes(-len(content) % ALIGNMENT))
                offsets[digest] = len(content)
                content.extend(raw)
            tensor.ClearField("raw_data")
            for field in ("float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": FILE, "offset": offsets[digest], "length": len(raw)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
    return bytes(content)


def strip_notes(model: onnx.ModelProto) -> None:
    """Remove what tracing noted about itself: it is large, and holds paths of this machine."""
    import onnx

    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    del graph.value_info[:]
    for item in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    model.producer_name, model.producer_version = "edgemem", ""
    onnx.checker.check_model(model)


def _raw(tensor: onnx.TensorProto) -> bytes:
    import onnx.numpy_helper

    if tensor.HasField("raw_data"):
        return tensor.raw_data
    raw: bytes = onnx.numpy_helper.to_array(tensor).tobytes()
    return raw
