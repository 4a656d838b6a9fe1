"""Rewrites of a whole ONNX graph, after each operator has been lowered by its own rule.

Each rule is a pattern, when it holds, and what takes its place; `RULES` lists them. They remove
passes over images that the engine would not remove by itself: what scales channels by constants
goes into the kernels of a convolution, and what only repeats a value is never spread out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import expand_before_binary_op_rules

from edgemem.export.lowering.portable import PORTABLE_RULES

LARGEST_FOLDED = 1 << 31  # kernels of any size are turned round at export, not on the device
LARGEST_SPREAD = 1 << 14  # elements of a constant that only repeats another
SMALL_PLANE = 256  # elements of a channel up to which a convolution is slower than a norm
SPREADING = ("Expand", "ConstantOfShape", "Tile")


def lower(model: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
    """The same function in fewer passes; portable: by rules that NPUs profit from, too."""
    graph = ir.from_proto(model)
    fold_constants(
        graph,
        onnx_shape_inference=True,
        input_size_limit=LARGEST_FOLDED,
        output_size_limit=LARGEST_FOLDED,
        should_fold=worth_folding,
    )
    RemoveUnusedNodesPass()(graph)
    for rules in PORTABLE_RULES if portable else RULES:
        graph = rewrite(ShapeInferencePass()(graph).model, pattern_rewrite_rules=rules)
    if portable:
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    Sequential(
        CommonSubexpressionEliminationPass(),
        DeduplicateInitializersPass(),
        RemoveUnusedNodesPass(),
    )(graph)
    return ir.to_proto(graph)


def worth_folding(node: ir.Node) -> bool | None:
    """Not what would store one value many times; None = as the library decides."""
    shape = node.outputs[0].shape
    if node.op_type not in SPREADING or shape is None:
        return None
    sizes = [size for size in shape if isinstance(size, int)]
    return None if np.prod(sizes) <= LARGEST_SPREAD else False


def scalar_before_expand() -> RewriteRule:
    """Expand(v) / scalar -> Expand(v / scalar): the small tensor is divided, not the large one."""

    def pattern(op: Any, v: Any, shape: Any, scalar: Any) -> Any:
        return op.Div(op.Expand(v, shape), scalar)

    def holds(_: Any, scalar: ir.Value, **__: ir.Value) -> bool:
        return scalar.shape is not None and len(scalar.shape) == 0

    def replacement(op: Any, v: ir.Value, shape: ir.Value, scalar: ir.Value) -> Any:
        return op.Expand(op.Div(v, scalar), shape)

    return RewriteRule(pattern, replacement, holds)


def scale_before_gate() -> RewriteRule:
    """(y * gate) * scale, y from a convolution -> (y * scale) * gate: kernels take the scale."""

    def pattern(op: Any, y: Any, gate: Any, scale: Any) -> Any:
        return op.Mul(op.Mul(y, gate), scale)

    def holds(_: Any, y: ir.Value, gate: ir.Value, scale: ir.Value) -> bool:
        if _channels(y, scale) is None or _channels(y, gate) is not None:
            return False
        return _has_constant_kernel(y) and len(y.uses()) == 1

    def replacement(op: Any, y: ir.Value, gate: ir.Value, scale: ir.Value) -> Any:
        return op.Mul(op.Mul(y, scale), gate)

    return RewriteRule(pattern, replacement, holds)


def affine_as_norm() -> RewriteRule:
    """From x * scale + shift per channel to BatchNormalization: one pass instead of two.

    On large planes to a depthwise 1x1 convolution, which takes a ReLU along and uses all threads;
    on small ones that has much to set up for each channel. Left alone where the engine takes the
    affine map into the convolution that made x.
    """

    def pattern(op: Any, x: Any, scale: Any, shift: Any) -> Any:
        return op.Add(op.Mul(x, scale), shift)

    def holds(_: Any, x: ir.Value, scale: ir.Value, shift: ir.Value) -> bool:
        if not (_per_channel(x, scale) and _per_channel(x, shift)):
            return False
        constant = _constant(scale) is not None and _constant(shift) is not None
        return not (constant and _has_constant_kernel(x) and len(x.uses()) == 1)

    def replacement(op: Any, x: ir.Value, scale: ir.Value, shift: ir.Value) -> Any:
        assert x.shape is not None
        channels, ones = x.shape[1], [1] * (len(x.shape) - 1)
        assert isinstance(channels, int)
        own = f"{x.name}.{scale.name}.{shift.name}"  # no other map has all three
        bias = _reshaped(op, shift, [channels], f"{own}.bias")
        if not _small_planes(x):
            kernel = _reshaped(op, scale, [channels, *ones], f"{own}.kernel")
            return op.Conv(x, kernel, bias, group=channels)
        gain = _reshaped(op, scale, [channels], f"{own}.gain")
        mean, var = (
            op.initializer(ir.tensor(np.full(channels, value, np.float32)), f"{own}.{name}")
            for name, value in (("mean", 0.0), ("var", 1.0))
        )
        return op.BatchNormalization(x, gain, bias, mean, var, epsilon=0.0)

    return RewriteRule(pattern, replacement, holds)


def _small_planes(x: ir.Value) -> bool:
    assert x.shape is not None
    sizes = [size for size in x.shape[2:] if isinstance(size, int)]
    return len(sizes) == len(x.shape) - 2 and math.prod(sizes) <= SMALL_PLANE


def moments_into_norm() -> RewriteRule:
    """The same where the map is that of a norm: which then takes mean and variance itself."""

    def pattern(op: Any, x: Any, w: Any, b: Any, mean: Any, var: Any, none: Any, one: Any) -> Any:
        scale = op.Div(w, op.Sqrt(var))
        return op.BatchNormalization(
            x, scale, op.Sub(b, op.Mul(mean, scale)), none, one,
            _allow_other_attributes=True, _outputs=["y"],
        )  # fmt: skip

    def holds(_: Any, none: ir.Value, one: ir.Value, **__: ir.Value) -> bool:
        zeros, ones = _constant(none), _constant(one)
        if zeros is None or ones is None:
            return False
        return not zeros.any() and bool((ones == 1).all())

    def replacement(op: Any, x: ir.Value, w: Any, b: Any, mean: Any, var: Any, **_: Any) -> Any:
        return op.BatchNormalization(x, w, b, mean, var, epsilon=0.0)

    # A gradient takes the scale, too: it stays, and the graph without a gradient has the same norm.
    return RewriteRule(pattern, replacement, holds, remove_nodes=False)


def square_mean_as_pooling() -> RewriteRule:
    """Mean square of each channel that a convolution made: stays in the engine's image layout."""

    def pattern(op: Any, x: Any, axes: Any) -> Any:
        return op.ReduceMean(op.Mul(x, x), axes, keepdims=0)

    def holds(_: Any, x: ir.Value, axes: ir.Value) -> bool:
        over, made = _constant(axes), x.producer()
        if over is None or x.shape is None or len(x.shape) != 4 or over.tolist() != [2, 3]:
            return False
        if made is not None and made.op_type == "Add" and made.inputs[0] is not None:
            return _has_constant_kernel(made.inputs[0])  # with a bias
        return _has_constant_kernel(x)

    def replacement(op: Any, x: ir.Value, axes: ir.Value) -> Any:
        return op.Squeeze(op.GlobalAveragePool(op.Mul(x, x)), axes)

    return RewriteRule(pattern, replacement, holds)


def scale_into_next_kernel() -> RewriteRule:
    """Conv(x * scale, w), both constants -> Conv(x, w * scale) over w's input channels."""

    def pattern(op: Any, x: Any, scale: Any, w: Any) -> Any:
        return op.Conv(op.Mul(x, scale), w, _allow_other_attributes=True, _outputs=["y"])

    def holds(_: Any, x: ir.Value, scale: ir.Value, w: ir.Value, y: ir.Value) -> bool:
        known = _channels(x, scale) is not None and _constant(w) is not None
        return known and _without_bias(y)

    def replacement(op: Any, x: ir.Value, scale: ir.Value, w: ir.Value, y: ir.Value) -> Any:
        factor, kernel, producer = _channels(x, scale), _constant(w), y.producer()
        assert factor is not None and kernel is not None and producer is not None
        groups = producer.attributes.get_int("group", 1)
        per_group = factor.reshape(groups, 1, -1, *[1] * (kernel.ndim - 2))
        scaled = (kernel.reshape(groups, -1, *kernel.shape[1:]) * per_group).reshape(kernel.shape)
        weight = op.initializer(ir.tensor(scaled), f"{w.name}.scaled.{y.name}")
        return op.Conv(x, weight, **producer.attributes)

    return RewriteRule(pattern, replacement, holds)


def scale_into_kernel() -> RewriteRule:
    """Conv(x, w) * scale, both constants -> Conv(x, w * scale) over w's output channels."""

    def pattern(op: Any, x: Any, w: Any, scale: Any) -> Any:
        return op.Mul(op.Conv(x, w, _allow_other_attributes=True, _outputs=["y"]), scale)

    def holds(_: Any, x: ir.Value, w: ir.Value, scale: ir.Value, y: ir.Value) -> bool:
        known = _channels(y, scale) is not None and _constant(w) is not None
        return known and _without_bias(y)

    def replacement(op: Any, x: ir.Value, w: ir.Value, scale: ir.Value, y: ir.Value) -> Any:
        factor, kernel, producer = _channels(y, scale), _constant(w), y.producer()
        assert factor is not None and kernel is not None and producer is not None
        scaled = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
        weight = op.initializer(ir.tensor(scaled), f"{w.name}.scaled.{y.name}")
        return op.Conv(x, weight, **producer.attributes)

    return RewriteRule(pattern, replacement, holds)


def _has_constant_kernel(value: ir.Value) -> bool:
    """Whether a convolution with a constant kernel made it."""
    producer = value.producer()
    if producer is None or producer.op_type != "Conv":
        return False
    return producer.inputs[1] is not None and _constant(producer.inputs[1]) is not None


def _without_bias(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and len(producer.inputs) == 2


def _constant(value: ir.Value) -> NDArray[Any] | None:
    held = ir.convenience.get_const_tensor(value)
    return None if held is None else held.numpy()


def _per_channel(x: ir.Value, value: ir.Value) -> bool:
    """Whether value is [1, c, 1, 1] (or [c, 1, 1]) and x an image of c channels."""
    if x.shape is None or value.shape is None or len(x.shape) not in (3, 4):
        return False
    if x.dtype != ir.DataType.FLOAT:
        return False
    own = (1,) * (len(x.shape) - len(value.shape)) + tuple(value.shape)
    channels = x.shape[1]
    return isinstance(channels, int) and own == (1, channels, *[1] * (len(x.shape) - 2))


def _channels(x: ir.Value, value: ir.Value) -> NDArray[np.float32] | None:
    """The same for a constant, as [c]."""
    held = _constant(value) if _per_channel(x, value) else None
    return None if held is None or held.dtype != np.float32 else held.reshape(-1)


def _reshaped(op: Any, value: ir.Value, shape: list[int], name: str) -> Any:
    """A reshaped value; where a reshape made it, from before that."""
    held = _constant(value)
    if held is not None:
        return op.initializer(ir.tensor(held.reshape(shape)), name)
    producer = value.producer()
    if producer is not None and producer.op_type in ("Reshape", "Unsqueeze"):
        before = producer.inputs[0]
        assert before is not None
        if before.shape == shape:
            return before
        value = before
    return op.Reshape(value, op.initializer(ir.tensor(np.array(shape)), f"{name}.shape"))


RULES = (
    RewriteRuleSet([scalar_before_expand()]),
    RewriteRuleSet([*expand_before_binary_op_rules, scale_before_gate()]),
    RewriteRuleSet([affine_as_norm(), scale_into_next_kernel(), scale_into_kernel()], commute=True),
    RewriteRuleSet([moments_into_norm(), square_mean_as_pooling()], commute=True),
)
