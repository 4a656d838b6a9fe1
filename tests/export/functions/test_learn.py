"""What a block learns: everything of the meta networks, or scales and shifts of norms alone."""

import numpy as np
import onnx
import pytest
import torch

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.testing import session_of

pytestmark = pytest.mark.slow

BATCH = 8


@pytest.fixture(scope="module")
def bundle(lively, warmed, exported):
    """Its objective is the weighted likelihood ratio, its gradient the full one."""
    network = lively(digits())
    model = attach(network, ["layer1", "layer2"], torch.zeros(2, 1, 8, 8), norm_affine=True)
    choices = Choices(BATCH, "full", learn="norms", objective="likelihood_ratio")
    return exported(network, warmed(model), choices)


def test_the_block_holds_scales_and_shifts_alone(bundle):
    manifest = open_bundle(bundle.path).manifest
    arrays = {array.name: array.shape for array in manifest.block.arrays}
    assert arrays and all(len(shape) == 1 for shape in arrays.values())
    assert {name.rsplit(".", 1)[1] for name in arrays} == {
        "weight", "bias", "scale_delta", "shift", "weight_delta", "bias_delta",
    }  # fmt: skip
    assert manifest.exported_from["learn"] == "norms"


def test_every_dense_convolution_has_a_constant_kernel(bundle):
    for name in ("predict", "adapt"):
        graph = onnx.load(bundle.path / f"{name}.onnx", load_external_data=False).graph
        constants = {value.name for value in graph.initializer}
        for node in graph.node:  # turned kernels are made of constants, which engines fold
            if node.op_type in ("Slice", "Transpose") and set(node.input) <= constants:
                constants.update(node.output)
        convolutions = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]
        dense = [
            n.input[1]
            for n in convolutions
            if not any(a.name == "group" and a.i > 1 for a in n.attribute)
        ]
        assert len(dense) >= 5 and set(dense) <= constants


def test_the_model_learns_everything_again_afterwards(bundle):
    kernels = [p for p in bundle.model.meta.parameters() if p.dim() > 1]
    assert kernels and all(p.requires_grad for p in kernels)


def test_the_runtime_adapts_and_zero_is_the_frozen_model(bundle):
    x = np.random.default_rng(0).random((4 * BATCH, 1, 8, 8), np.float32)
    with edgemem.open(bundle.path, threads=1) as runtime:
        results = [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        assert all(result.adapted for result in results)
        assert not session_of(runtime).block.has_values_of(runtime.bundle.generic)
        frozen = runtime.predict(x[:BATCH], frozen=True).logits
    with torch.no_grad():
        expected = bundle.network(torch.from_numpy(x[:BATCH])).numpy()
    np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-5)
