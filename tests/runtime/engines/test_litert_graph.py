"""What comes out of a LiteRT signature, without LiteRT."""

import numpy as np
import pytest

from edgemem.block import Block
from edgemem.bundle.manifest import Binding
from edgemem.errors import BundleError
from edgemem.runtime.engines.litert_engine import LiteRtGraph

BINDING = Binding("g.tflite", "adapt", ("x", "block.frames"), ("logits", "next.block.frames"))


class Interpreter:
    """One signature that adds one. Like LiteRT, it hands out numpy's scalars for no dimensions."""

    def get_signature_runner(self, signature):
        assert signature == "adapt"
        return self

    def get_input_details(self):
        shapes = ([2, 3], [])
        return {f"args_{k}": {"shape": s, "dtype": np.float32} for k, s in enumerate(shapes)}

    def get_output_details(self):
        return {"output_0": {}, "output_1": {}}

    def __call__(self, args_0, args_1):
        return {"output_0": args_0 + 1, "output_1": np.float32(args_1 + 1)}


def test_outputs_without_dimensions_are_arrays_too():
    graph = LiteRtGraph(Interpreter(), BINDING, "b.edgemem/g.tflite")
    assert [spec.shape for spec in graph.inputs.values()] == [(2, 3), ()]
    outputs = graph.run({"x": np.zeros((2, 3), np.float32), "block.frames": np.float32(4)})
    assert all(isinstance(array, np.ndarray) for array in outputs.values())
    block = Block.named("next.block", outputs)
    assert block["frames"] == 5 and block["frames"].dtype == np.float32
    np.testing.assert_array_equal(outputs["logits"], np.ones((2, 3)))


def test_another_number_of_tensors_is_refused():
    with pytest.raises(BundleError, match="has 2 inputs and 2 outputs, unlike its manifest"):
        LiteRtGraph(Interpreter(), Binding("g.tflite", "adapt", ("x",), ("logits",)), "b/g.tflite")
