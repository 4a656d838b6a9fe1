"""Constants in one file beside the graphs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemem.export.weights import FILE, INLINE_BYTES, share_weights


def split_graph(parts):
    """Split x + weight into so many parts; returns the first and the last."""
    names = [f"part{number}" for number in range(parts)]
    nodes = [
        helper.make_node("Add", ["x", "weight"], ["sum"]),
        helper.make_node("Split", ["sum", "sizes"], names, axis=0),
    ]
    constants = {
        "weight": np.arange(2 * parts, dtype=np.float32),
        "sizes": np.full(parts, 2, np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2 * parts])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (names[0], names[-1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("parts", [3, 200, 2000])
def test_sizes_stay_in_the_graph_where_engines_read_them(parts, tmp_path):
    model = split_graph(parts)
    content = share_weights([model])
    (tmp_path / FILE).write_bytes(content)
    onnx.save(model, tmp_path / "split.onnx")
    large = 8 * parts >= INLINE_BYTES
    assert len(content) == (8 * parts if large else 0)  # float32: the weight, and no sizes
    session = onnxruntime.InferenceSession(str(tmp_path / "split.onnx"))
    x = np.ones(2 * parts, np.float32)
    first, last = session.run(None, {"x": x})
    np.testing.assert_array_equal(first, [1, 2])
    np.testing.assert_array_equal(last, [2 * parts - 1, 2 * parts])
