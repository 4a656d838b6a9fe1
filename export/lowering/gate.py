"""Gradients that pass where something is positive: a product with a gate of zeros and ones.

Comparing and selecting run on one thread in onnxruntime, HardSigmoid and Mul on all; so the gate is
a HardSigmoid so steep that it is one for every normal number above zero.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset20
from torch import Tensor

STEEP = 2.0**127  # exact in single precision


@torch.library.custom_op("edgemem::positive", mutates_args=())
def positive(x: Tensor) -> Tensor:
    """1.0 where x > 0, else 0.0; the same shape and dtype."""
    return (x > 0).to(x.dtype)


@positive.register_fake
def _positive_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU and threshold: passes where x > threshold."""
    return grad * _gate(x - threshold if threshold else x)


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of ReLU6 and hardtanh: passes where low < x < high."""
    return grad * (_gate(x - low if low else x) * _gate(high - x))


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


def _gate(x: Tensor) -> Tensor:
    gate: Tensor = torch.ops.edgemem.positive.default(x)
    return gate


def positive_onnx(x: Any) -> Any:
    """ONNX form of `positive`."""
    return opset20.HardSigmoid(x, alpha=STEEP, beta=0.0)


def sign_onnx(x: Any) -> Any:
    """ONNX form of aten.sign, for floats: a slope cut off at -1 and 1."""
    low, high = opset20.Constant(value_float=-1.0), opset20.Constant(value_float=1.0)
    return opset20.Clip(opset20.Mul(x, opset20.Constant(value_float=STEEP)), low, high)
