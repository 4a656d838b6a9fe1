"""Gradients that pass beyond a limit: a product with a gate of zeros and ones.

Comparing and selecting run on one thread in onnxruntime, HardSigmoid and Mul on all; so the gate is
a HardSigmoid that rises from zero to one between a limit and the next number of single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnxscript import opset20
from torch import Tensor

STEEP = 2.0**127  # exact in single precision


@torch.library.custom_op("edgemem::beyond", mutates_args=())
def beyond(x: Tensor, limit: float, above: bool) -> Tensor:
    """1.0 where x > limit (or x < limit, if not `above`), else 0.0; the same shape and dtype."""
    return ((x > limit) if above else (x < limit)).to(x.dtype)


@beyond.register_fake
def _beyond_shape(x: Tensor, limit: float, above: bool) -> Tensor:
    return torch.empty_like(x)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU and threshold: passes where x > threshold."""
    return grad * _gate(x, threshold)


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of ReLU6 and hardtanh: passes where low < x < high.

    The result is between the limits where x is; the graph has it already, and a convolution whose x
    nothing else needs takes the activation along.
    """
    result = torch.nn.functional.hardtanh(x, low, high)
    return grad * (_gate(result, low) * _gate(result, high, above=False))


def leaky_relu_backward(grad: Tensor, x: Tensor, slope: float, _is_result: bool = False) -> Tensor:
    """Gradient of leaky ReLU: 1 where x > 0, else the slope."""
    return grad * (_gate(x) * (1.0 - slope) + slope)


def elu_backward(
    grad: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    """Gradient of ELU, SELU and CELU: the scale where x > 0, else that of the exponential."""
    gate = _gate(x)
    exponential = x + alpha * scale if is_result else alpha * scale * (x * input_scale).exp()
    return grad * (gate * scale + (1.0 - gate) * exponential.clamp(max=alpha * scale) * input_scale)


def shrink_backward(grad: Tensor, x: Tensor, limit: float) -> Tensor:
    """Gradient of softshrink and hardshrink: passes beyond the limit on either side of zero."""
    return grad * (_gate(x, limit) + _gate(x, -limit, above=False))


def _gate(x: Tensor, limit: float = 0.0, above: bool = True) -> Tensor:
    gate: Tensor = torch.ops.edgemem.beyond.default(x, float(limit), above)
    return gate


def beyond_onnx(x: Any, limit: float, above: bool) -> Any:
    """ONNX form of `beyond`.

    With the distance to the next number as a power of two, slope * x and slope * limit are exact,
    and their difference is at least one from the next number on.
    """
    bound = np.float32(limit)
    following = np.nextafter(bound, np.float32(np.inf if above else -np.inf))
    spacing = abs(float(following) - float(bound))
    slope = math.copysign(min(1.0 / spacing, STEEP), 1.0 if above else -1.0)
    return opset20.HardSigmoid(x, alpha=slope, beta=-slope * float(bound))


def sign_onnx(x: Any) -> Any:
    """ONNX form of aten.sign, for floats: a slope cut off at -1 and 1."""
    low, high = opset20.Constant(value_float=-1.0), opset20.Constant(value_float=1.0)
    return opset20.Clip(opset20.Mul(x, opset20.Constant(value_float=STEEP)), low, high)


aten = torch.ops.aten
RULES: dict[Any, Callable[..., Any]] = {
    aten.threshold_backward.default: threshold_backward,
    aten.hardtanh_backward.default: hardtanh_backward,
    aten.leaky_relu_backward.default: leaky_relu_backward,
    aten.elu_backward.default: elu_backward,
    aten.softshrink_backward.default: shrink_backward,
    aten.hardshrink_backward.default: shrink_backward,
}
