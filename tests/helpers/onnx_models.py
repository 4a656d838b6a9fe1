"""ONNX files for tests, made with onnx.helper, and what ONNX Runtime says of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save(path, nodes, weights=None, shape=("n", 3, 8, 8), opset=17, outputs=("y",), **about):
    """Write a file with the input "x" of that shape; returns its path."""
    given = helper.make_tensor_value_info("x", about.get("kind", FLOAT), list(shape))
    extra = [
        helper.make_tensor_value_info(name, FLOAT, list(size))
        for name, size in about.get("more", {}).items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [given, *extra],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in (weights or {}).items()],
    )
    domains = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(d, 1) for d in about.get("domains", ())),
    ]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8 if opset < 20 else 10)
    onnx.save(model, path)
    return path


def answers(path, x):
    """All outputs of a file, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: np.asarray(x, np.float32)})


def constant(name, value):
    """A Constant node, as old exporters write them."""
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.asarray(value))
    )
