"""Operators that compute each number by itself, and those that mix along axes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.models.onnx_files.operators.calls import NodeCall, Operator, Refused, Value, axis_of
from edgemem.models.onnx_files.operators.host_operators import FLOATS, numpy_type

SINGLE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Asin": torch.asin, "Atan": torch.atan,
    "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "IsInf": torch.isinf,
    "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh, "Identity": lambda x: x, "Dropout": lambda x: x,
}  # fmt: skip
COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": torch.add, "Mul": torch.mul, "Sub": torch.sub,
}  # fmt: skip


def _single(function: Callable[[Tensor], Tensor]) -> Operator:
    def run(call: NodeCall) -> Tensor:
        return function(call.tensor())

    return run


def _pairwise(function: Callable[[Any, Any], Tensor]) -> Operator:
    def run(call: NodeCall) -> Tensor:
        return function(*_operands(call))

    return run


def _operands(call: NodeCall) -> tuple[Any, Any]:
    """Both inputs; one number that is a host value as a number, which may be a symbol."""
    first, second = call.inputs[:2]
    if isinstance(first, Tensor) and not isinstance(second, Tensor) and second is not None:
        return (
            first,
            second.item() if second.size == 1 and second.ndim <= first.dim() else call.tensor(1),
        )
    return call.tensor(0), call.tensor(1)


def _divide(call: NodeCall) -> Tensor:
    first, second = _operands(call)
    rounding = None if first.is_floating_point() else "trunc"
    return torch.div(first, second, rounding_mode=rounding)


def _power(call: NodeCall) -> Tensor:
    exponent = call.constants.get(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= call.tensor().dim():
        return torch.pow(call.tensor(), float(exponent.item()))
    return torch.pow(*_operands(call))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(call: NodeCall) -> Tensor:
        return functools.reduce(function, map(call.tensor, range(len(call.inputs))))

    return run


def _mean(call: NodeCall) -> Tensor:
    total = functools.reduce(torch.add, map(call.tensor, range(len(call.inputs))))
    return total / len(call.inputs)


def _modulo(call: NodeCall) -> Tensor:
    function = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    return function(*_operands(call))


def _clip(call: NodeCall) -> Tensor:
    low, high = call.attribute("min"), call.attribute("max")
    low = call.number(1, 0.0) if call.given(1) else low
    high = call.number(2, 0.0) if call.given(2) else high
    if low is None and high is None:
        return call.tensor()
    return torch.clamp(call.tensor(), low, high)


def _cast(call: NodeCall) -> Tensor:
    kind = numpy_type(call.attribute("to"))
    x = call.tensor()
    if kind in FLOATS and kind is not FLOATS[1] and x.is_floating_point():
        raise Refused("computes with floats of another size than 32 bits")
    return x.to(getattr(torch, "bool" if kind.__name__.startswith("bool") else kind.__name__))


def _cast_like(call: NodeCall) -> Tensor:
    return call.tensor(0).to(call.tensor(1).dtype)


def _unit(call: NodeCall) -> Tensor:
    return F.normalize(call.tensor(), call.attribute("p", 2), call.attribute("axis", -1), eps=0.0)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _with(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """A function with numbers that are attributes, in that order."""

    def run(call: NodeCall) -> Tensor:
        numbers = [call.attribute(name, default) for name, default in defaults.items()]
        return function(call.tensor(), *numbers)

    return run


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * F.elu(x, alpha)


def _thresholded(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _gelu(call: NodeCall) -> Tensor:
    return F.gelu(call.tensor(), approximate=call.attribute("approximate", "none"))


def _prelu(call: NodeCall) -> Tensor:
    x, slope = call.tensor(0), call.tensor(1)
    return torch.where(x >= 0, x, slope * x)


def _where(call: NodeCall) -> Tensor:
    return torch.where(call.tensor(0).bool(), call.tensor(1), call.tensor(2))


def _normalized(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Softmax and its kin: before opset 13 over all axes from one on."""

    def run(call: NodeCall) -> Tensor:
        x = call.tensor()
        if call.version >= 13:
            return function(x, axis_of(call.attribute("axis", -1), x.dim()))
        axis = axis_of(call.attribute("axis", 1), x.dim())
        return function(x.flatten(axis), axis).reshape(x.shape)

    return run


def _matmul(call: NodeCall) -> Tensor:
    return torch.matmul(call.tensor(0), call.tensor(1))


def _gemm(call: NodeCall) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    a = a.T if call.attribute("transA", 0) else a
    b = b.T if call.attribute("transB", 0) else b
    product: Tensor = call.attribute("alpha", 1.0) * (a @ b)
    return product + call.attribute("beta", 1.0) * call.tensor(2) if call.given(2) else product


def _einsum(call: NodeCall) -> Tensor:
    tensors = [call.tensor(position) for position in range(len(call.inputs))]
    return torch.einsum(call.attribute("equation"), *tensors)


def _cumulative(call: NodeCall) -> Tensor:
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        raise Refused("sums up backwards or without the last")
    return torch.cumsum(call.tensor(), int(call.host(1).item()))


def _local_response(call: NodeCall) -> Tensor:
    numbers = [call.attribute(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))]
    return F.local_response_norm(call.tensor(), call.attribute("size"), *numbers)


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(call: NodeCall) -> Tensor:
        x, axes = call.tensor(), call.list("axes", 1)
        if not axes:
            if call.attribute("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.dim()))
        axes = [axis_of(axis, x.dim()) for axis in axes]
        return function(x, axes, bool(call.attribute("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor]) -> Operator:
    def run(call: NodeCall) -> Value:
        if call.attribute("select_last_index", 0):
            raise Refused("takes the last of equal numbers")
        keep = bool(call.attribute("keepdims", 1))
        return function(call.tensor(), call.attribute("axis", 0), keepdim=keep)

    return run


def _largest(call: NodeCall) -> tuple[Tensor, Tensor]:
    count = call.sizes(1)[0] if call.given(1) else call.attribute("k")
    largest, ordered = call.attribute("largest", 1), call.attribute("sorted", 1)
    found = torch.topk(
        call.tensor(), count, call.attribute("axis", -1), bool(largest), bool(ordered)
    )
    return found.values, found.indices


ELEMENTWISE: dict[str, Operator] = {
    **{name: _single(function) for name, function in SINGLE.items()},
    **{name: _pairwise(function) for name, function in (COMPARISONS | ARITHMETIC).items()},
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Celu": _with(F.celu, alpha=1.0),
    "Clip": _clip,
    "CumSum": _cumulative,
    "Div": _divide,
    "Einsum": _einsum,
    "Elu": _with(_elu, alpha=1.0),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _with(_hard_sigmoid, alpha=0.2, beta=0.5),
    "LRN": _local_response,
    "LeakyRelu": _with(F.leaky_relu, alpha=0.01),
    "LogSoftmax": _normalized(torch.log_softmax),
    "LpNormalization": _unit,
    "MatMul": _matmul,
    "Max": _folded(torch.maximum),
    "Mean": _mean,
    "Min": _folded(torch.minimum),
    "Mod": _modulo,
    "PRelu": _prelu,
    "Pow": _power,
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep).sqrt()),
    "ReduceLogSum": _reduced(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "Selu": _with(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Softmax": _normalized(torch.softmax),
    "Sum": _folded(torch.add),
    "Swish": _with(_swish, alpha=1.0),
    "ThresholdedRelu": _with(_thresholded, alpha=1.0),
    "TopK": _largest,
    "Where": _where,
}
