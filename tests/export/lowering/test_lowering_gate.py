"""Gates of gradients: what becomes of them in onnxruntime, against torch."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxscript.tensor import Tensor

from edgemem.export.functions.forward import Function
from edgemem.export.lowering import gate
from edgemem.export.tracing.trace import to_onnx

SLOW = {"Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Sign", "Equal"}
ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.25),
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "threshold": lambda x: F.threshold(x, 0.25, -1.0),
    "absolute": torch.abs,
}
SMALL = float(np.finfo(np.float32).tiny)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
values = hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-9, 9, width=32))


def gradient_of(name):
    """x, w -> in torch, the gradient of an activation that is weighted by w."""
    return torch.func.grad(lambda x, w: (ACTIVATIONS[name](x) * w).sum())


@pytest.fixture(scope="module")
def graph():
    """One graph of the gradients of all activations."""

    def gradients(x, w):
        return tuple(gradient_of(name)(x, w) for name in ACTIVATIONS)

    example = {"x": torch.zeros(2, 3, 4), "block.w": torch.ones(2, 3, 4)}
    outputs = tuple(f"next.block.{number}" for number in range(len(ACTIVATIONS)))
    return to_onnx(Function(example, outputs, gradients, dynamic_batch=False))


@pytest.fixture(scope="module")
def session(graph):
    return onnxruntime.InferenceSession(graph.SerializeToString())


@pytest.fixture(scope="module", params=ACTIVATIONS)
def both(request, session):
    """The gradient of an activation in torch, and in its graph."""
    place = list(ACTIVATIONS).index(request.param)

    def run(x, w):
        return session.run([f"next.block.{place}"], {"x": x, "block.w": w})[0]

    return gradient_of(request.param), run


def test_no_operator_is_left_that_runs_on_one_thread(graph):
    assert not {node.op_type for node in graph.graph.node} & SLOW


@quick
@given(x=values, w=values)
def test_gradients_equal_torchs(both, x, w):
    """Numbers so near a kink that they are below the steepest slope count as at the kink."""
    gradient, run = both
    x = np.where(np.abs(x) < SMALL, 0, x).astype(np.float32)
    expected = gradient(torch.from_numpy(x), torch.from_numpy(w)).numpy()
    np.testing.assert_allclose(run(x, w), expected, rtol=1e-6, atol=1e-6)


@quick
@given(limit=st.floats(-1e6, 1e6, width=32), above=st.booleans(), others=values)
def test_a_gate_opens_at_the_very_next_number(limit, above, others):
    limit = 0.0 if abs(limit) < SMALL else limit
    near = np.float32(limit)
    around = [np.nextafter(near, np.float32(side * np.inf)) for side in (1, -1)]
    x = np.concatenate([others.ravel(), [near, *around]]).astype(np.float32)
    x[np.abs(x) < SMALL] = 0
    found = np.asarray(gate.beyond_onnx(Tensor(x), limit, above).value)
    np.testing.assert_array_equal(found, x > near if above else x < near)


def test_the_kink_the_smallest_and_the_largest_numbers(both):
    gradient, run = both
    edge = [0.0, -0.0, SMALL, -SMALL, 3e38, -3e38, 0.25, -0.5, 6.0, 5.9999995, 1.0, -1.0]
    x = np.resize(np.array(edge, np.float32), (2, 3, 4))
    w = np.full((2, 3, 4), 2.0, np.float32)
    expected = gradient(torch.from_numpy(x), torch.from_numpy(w)).numpy()
    np.testing.assert_array_equal(run(x, w), expected)
