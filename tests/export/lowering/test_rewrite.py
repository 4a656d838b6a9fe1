"""Every rewrite leaves the function as it is and removes the passes it is there for."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from edgemem.export.lowering.rewrite import LARGEST_SPREAD, lower

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
KERNEL = "float[4,4,3,3] w"
RANDOM = np.random.default_rng(0)


def model(text, **constants):
    found = parser.parse_model(HEAD + text)
    for name, value in constants.items():
        found.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return onnx.shape_inference.infer_shapes(found)


def per_channel(channels=4):
    return RANDOM.uniform(0.5, 2, (1, channels, 1, 1)).astype(np.float32)


def run(found):
    onnx.checker.check_model(found, full_check=True)
    session = onnxruntime.InferenceSession(found.SerializeToString())
    feeds = {
        value.name: np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)
        for value in session.get_inputs()
    }
    return session.run(None, feeds)


CASES = {
    "affine": (
        model(
            "agraph (float[2,4,9,16] x) => (float[2,4,9,16] y, float[2,4,9,16] z) "
            "{ a = Mul(x, s) y = Add(a, t) z = Relu(x) }",
            s=per_channel(),
            t=per_channel(),
        ),
        {"BatchNormalization": 1, "Relu": 1},
    ),
    "affine, large planes": (
        model(
            "agraph (float[2,4,9,160] x) => (float[2,4,9,160] y, float[2,4,9,160] z) "
            "{ a = Mul(x, s) y = Add(a, t) z = Relu(x) }",
            s=per_channel(),
            t=per_channel(),
        ),
        {"Conv": 1, "Relu": 1},
    ),
    "affine, runtime, large planes": (
        model(
            "agraph (float[2,4,9,160] x, float[4] s, float[4] t) => (float[2,4,9,160] y) "
            "{ s4 = Reshape(s, k) t4 = Reshape(t, k) a = Mul(s4, x) y = Add(t4, a) }",
            k=np.array([1, 4, 1, 1]),
        ),
        {"Reshape": 1, "Conv": 1},
    ),
    "affine, runtime": (
        model(
            "agraph (float[2,4,5,5] x, float[4] s, float[4] t) => (float[2,4,5,5] y) "
            "{ s4 = Reshape(s, k) t4 = Reshape(t, k) a = Mul(s4, x) y = Add(t4, a) }",
            k=np.array([1, 4, 1, 1]),
        ),
        {"BatchNormalization": 1},
    ),
    "affine, one dimension": (
        model(
            "agraph (float[2,4,99] x) => (float[2,4,99] y) { a = Mul(x, s) y = Add(a, t) }",
            s=per_channel()[..., 0],
            t=per_channel()[..., 0],
        ),
        {"BatchNormalization": 1},
    ),
    "a norm with moments of its own": (
        model(
            "agraph (float[2,4,5,5] x, float[4] w, float[4] b, float[4] m, float[4] r) => "
            "(float[2,4,5,5] y) "
            "{ r2 = Mul(r, r) v = Add(r2, e) d = Sqrt(v) s = Div(w, d) ms = Mul(m, s) "
            "t = Sub(b, ms) s4 = Reshape(s, k) t4 = Reshape(t, k) a = Mul(x, s4) y = Add(a, t4) }",
            k=np.array([1, 4, 1, 1]),
            e=np.float32(0.1).reshape(()),
        ),
        {"Mul": 1, "Add": 1, "BatchNormalization": 1},
    ),
    "mean squares of what a convolution makes": (
        model(
            "agraph (float[2,4,5,5] x) => (float[2,4] y, float[2,4,3,3] d) "
            "{ a = Conv(x, w) d = Add(a, t) q = Mul(d, d) "
            "y = ReduceMean <keepdims = 0> (q, over) }",
            w=RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32),
            t=per_channel(),
            over=np.array([2, 3]),
        ),
        {"Conv": 1, "Add": 1, "Mul": 1, "GlobalAveragePool": 1, "Squeeze": 1},
    ),
    "affine twice of one image": (
        model(
            "agraph (float[2,4,9,160] x, float[4] s, float[4] t) => "
            "(float[2,4,9,160] y, float[2,4,9,160] z) "
            "{ s4 = Reshape(s, k) t4 = Reshape(t, k) a = Mul(s4, x) y = Add(t4, a) "
            "b = Mul(p, x) z = Add(q, b) }",
            k=np.array([1, 4, 1, 1]),
            p=per_channel(),
            q=per_channel(),
        ),
        {"Reshape": 1, "Conv": 2},
    ),
    "affine twice of one image, small planes": (
        model(
            "agraph (float[2,4,5,5] x, float[4] s, float[4] t) => "
            "(float[2,4,5,5] y, float[2,4,5,5] z) "
            "{ s4 = Reshape(s, k) t4 = Reshape(t, k) a = Mul(s4, x) y = Add(t4, a) "
            "b = Mul(p, x) z = Add(q, b) }",
            k=np.array([1, 4, 1, 1]),
            p=per_channel(),
            q=per_channel(),
        ),
        {"BatchNormalization": 2},
    ),
    "scale into the next kernel": (
        model(
            "agraph (float[2,4,5,5] x) => (float[2,6,3,3] y) "
            "{ a = Mul(x, s) y = Conv <group = 2> (a, w) }",
            s=per_channel(),
            w=RANDOM.standard_normal((6, 2, 3, 3)).astype(np.float32),
        ),
        {"Conv": 1},
    ),
    "scale into the kernel": (
        model(
            "agraph (float[2,4,5,5] x) => (float[2,6,3,3] y) "
            "{ a = Conv <group = 2> (x, w) y = Mul(a, s) }",
            s=per_channel(6),
            w=RANDOM.standard_normal((6, 2, 3, 3)).astype(np.float32),
        ),
        {"Conv": 1},
    ),
    "scale before a gate": (
        model(
            "agraph (float[2,4,5,5] x, float[2,4,3,3] gate) => (float[2,4,3,3] y) "
            "{ a = Conv (x, w) b = Mul(a, gate) y = Mul(b, s) }",
            s=per_channel(),
            w=RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32),
        ),
        {"Conv": 1, "Mul": 1},
    ),
    "scalar before expanding": (
        model(
            "agraph (float[4] v, float[2,4] x) => (float[2,4] y) "
            "{ a = Expand(v, shape) b = Div(a, n) y = Mul(b, x) }",
            shape=np.array([2, 4]),
            n=np.float32(8).reshape(()),
        ),
        {"Div": 1, "Mul": 1},
    ),
    "kernels turned round": (
        model(
            "agraph (float[2,4,5,5] x) => (float[2,4,3,3] y) "
            "{ a = Slice(w, from, to, axes, steps) y = Conv(x, a) }",
            w=RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32),
            **{"from": np.array([-1, -1]), "to": np.array([-9, -9])},
            axes=np.array([2, 3]),
            steps=np.array([-1, -1]),
        ),
        {"Conv": 1},
    ),
}
LEFT_ALONE = {
    "mean squares of something else": model(
        "agraph (float[2,4,5,5] x) => (float[2,4] y) "
        "{ q = Mul(x, x) y = ReduceMean <keepdims = 0> (q, over) }",
        over=np.array([2, 3]),
    ),
    "a scale that differs from place to place": model(
        "agraph (float[2,4,5,5] x) => (float[2,4,5,5] y) { a = Mul(x, s) y = Add(a, t) }",
        s=np.ones((1, 4, 5, 1), np.float32) * 2,
        t=per_channel(),
    ),
    "a convolution with a bias": model(
        "agraph (float[2,4,5,5] x) => (float[2,4,3,3] y) { a = Conv(x, w, b) y = Mul(a, s) }",
        s=per_channel(),
        w=RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32),
        b=np.ones(4, np.float32),
    ),
    "a kernel that is an input": model(
        f"agraph (float[2,4,5,5] x, {KERNEL}) => (float[2,4,3,3] y) "
        "{ a = Mul(x, s) y = Conv(a, w) }",
        s=per_channel(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_keeps_the_function_in_fewer_nodes(name):
    before, operators = CASES[name]
    after = lower(before)
    found = [node.op_type for node in after.graph.node]
    assert {operator: found.count(operator) for operator in found} == operators
    for mine, theirs in zip(run(after), run(before), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_does_not_fit_a_rule_is_left_alone(name):
    before = LEFT_ALONE[name]
    after = lower(before)
    operators = [node.op_type for node in before.graph.node]
    assert [node.op_type for node in after.graph.node] == operators
    for mine, theirs in zip(run(after), run(before), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_repeated_constant_is_not_spread_out_in_the_file():
    wide = LARGEST_SPREAD + 1
    before = model(
        f"agraph (float[{wide}] x) => (float[{wide}] y) {{ a = Expand(v, n) y = Max(a, x) }}",
        v=np.ones(1, np.float32),
        n=np.array([wide]),
    )
    after = lower(before)
    assert len(after.SerializeToString()) < wide
    np.testing.assert_array_equal(run(after)[0], run(before)[0])
