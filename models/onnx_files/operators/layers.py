"""Operators that hold weights, as layers of torch: what can be adapted stands there by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgemem.models.onnx_files.operators.calls import Host, NodeCall, Refused
from edgemem.models.onnx_files.operators.images import torch_order, window
from edgemem.models.onnx_files.operators.recurrent import recurrent

CONVOLUTIONS: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[Any]] = {
    1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d,
}  # fmt: skip
NORMS: dict[int, type[Any]] = {
    2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d,
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A node as a layer.

    Attributes:
        inputs: positions of the node's inputs that the layer takes.
        pads: by which its input is padded with zeros before, in torch's order.
    """

    module: nn.Module
    inputs: tuple[int, ...] = (0,)
    pads: tuple[int, ...] = ()


LayerMaker = Callable[[NodeCall], Layer | None]  # None: its weights are not constant


def _constants(call: NodeCall, positions: Sequence[int]) -> list[Host] | None:
    """Constant inputs; None where one is not constant or not there."""
    found = [call.constants.get(position) for position in positions]
    return None if any(value is None for value in found) else found  # type: ignore[return-value]


def _untrained(kind: Any, *sizes: Any, **form: Any) -> Any:
    """A layer whose weights are not drawn first."""
    return torch.nn.utils.skip_init(kind, *sizes, **form)  # type: ignore[no-untyped-call]


def _filled(module: nn.Module, **arrays: Host | None) -> nn.Module:
    """A layer with these weights."""
    for name, array in arrays.items():
        own = getattr(module, name)
        if array is None or own is None:
            continue
        value = torch.from_numpy(np.array(array, np.float32))
        if value.shape != own.shape:
            raise Refused(f"has a {name} of {list(value.shape)}, not {list(own.shape)}")
        if isinstance(own, nn.Parameter):
            setattr(module, name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)
    return module


def _bias(call: NodeCall, position: int) -> Host | None:
    """A bias, where there is one.

    Raises Refused where it is not constant.
    """
    if not call.given(position):
        return None
    if position not in call.constants:
        raise Refused("has a bias that is computed")
    return call.constants[position]


def _convolution(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None:
        return None
    weight, x = weights[0], call.tensor()
    rank = weight.ndim - 2
    if rank not in CONVOLUTIONS or x.dim() != weight.ndim:
        raise Refused(f"convolves over {rank} axes")
    groups = call.attribute("group", 1)
    found = window(call, weight.shape[2:], x.shape[2:])
    even = found["low"] == found["high"]
    bias = _bias(call, 2)
    module = _untrained(
        CONVOLUTIONS[rank], weight.shape[1] * groups, weight.shape[0], weight.shape[2:],
        stride=found["strides"], padding=tuple(found["low"]) if even else 0,
        dilation=found["dilations"], groups=groups, bias=bias is not None,
    )  # fmt: skip
    pads = () if even else tuple(torch_order(found["low"], found["high"]))
    return Layer(_filled(module, weight=weight, bias=bias), pads=pads)


def _transposed(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None:
        return None
    weight, x = weights[0], call.tensor()
    rank = weight.ndim - 2
    if rank not in TRANSPOSED or x.dim() != weight.ndim:
        raise Refused(f"convolves over {rank} axes")
    if (
        call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or "output_shape" in call.attributes
    ):
        raise Refused("pads by itself")
    found, groups = window(call, weight.shape[2:], x.shape[2:]), call.attribute("group", 1)
    if found["low"] != found["high"]:
        raise Refused("has uneven padding")
    bias = _bias(call, 2)
    module = _untrained(
        TRANSPOSED[rank], weight.shape[0], weight.shape[1] * groups, weight.shape[2:],
        stride=found["strides"], padding=found["low"], dilation=found["dilations"], groups=groups,
        output_padding=tuple(call.attribute("output_padding", [0] * rank)), bias=bias is not None,
    )  # fmt: skip
    return Layer(_filled(module, weight=weight, bias=bias))


def _batch_norm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1, 2, 3, 4])
    if weights is None:
        return None
    if call.attribute("training_mode", 0) or call.attribute("spatial", 1) == 0:
        raise Refused("takes statistics of its batch, or of every place")
    x = call.tensor()
    if x.dim() not in NORMS:
        raise Refused(f"normalises {x.dim()} axes")
    weight, bias, mean, variance = weights
    module = NORMS[x.dim()](weight.size, eps=call.attribute("epsilon", 1e-5))
    _filled(module, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return Layer(module)


def linear(weight: Host, bias: Host | None) -> nn.Linear:
    """A linear layer from weights [in, out], as MatMul has them."""
    module: nn.Linear = _untrained(nn.Linear, *weight.shape, bias=bias is not None)
    _filled(module, weight=weight.T, bias=bias)
    return module


def _gemm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None or call.attribute("transA", 0) or weights[0].ndim != 2:
        return None
    weight = weights[0] if not call.attribute("transB", 0) else weights[0].T
    weight = weight * np.float32(call.attribute("alpha", 1.0))
    if not call.given(2):
        return Layer(linear(weight, None))
    bias = call.constants.get(2)
    if bias is None or (bias.ndim == 2 and bias.shape[0] != 1) or bias.ndim > 2:
        return None
    bias = np.broadcast_to(bias.reshape(-1), weight.shape[1:]) * np.float32(
        call.attribute("beta", 1.0)
    )
    return Layer(linear(weight, bias))


def _matmul(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None or weights[0].ndim != 2 or call.tensor().dim() < 2:
        return None
    return Layer(linear(weights[0], None))


def _layer_norm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None or call.outputs > 1:
        return None
    x = call.tensor()
    axis = call.attribute("axis", -1) % x.dim()
    module = nn.LayerNorm(
        list(x.shape[axis:]), eps=call.attribute("epsilon", 1e-5), bias=call.given(2)
    )
    bias = _bias(call, 2)
    shape = tuple(x.shape[axis:])
    return Layer(_filled(
        module,
        weight=np.broadcast_to(weights[0], shape),
        bias=None if bias is None else np.broadcast_to(bias, shape),
    ))  # fmt: skip


def _rms_norm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1])
    if weights is None:
        return None
    x = call.tensor()
    shape = tuple(x.shape[call.attribute("axis", -1) % x.dim() :])
    module = nn.RMSNorm(list(shape), eps=call.attribute("epsilon", 1e-5))
    return Layer(_filled(module, weight=np.broadcast_to(weights[0], shape)))


def _instance_norm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1, 2])
    if weights is None:
        return None
    weight, bias = weights  # as many groups as channels
    module = nn.GroupNorm(weight.size, weight.size, eps=call.attribute("epsilon", 1e-5))
    return Layer(_filled(module, weight=weight, bias=bias))


def _group_norm(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1, 2])
    if weights is None:
        return None
    groups, channels = call.attribute("num_groups"), call.tensor().shape[1]
    weight, bias = (np.repeat(w, channels // w.size) for w in weights)  # before 21, one a group
    module = nn.GroupNorm(groups, channels, eps=call.attribute("epsilon", 1e-5))
    return Layer(_filled(module, weight=weight, bias=bias))


def _recurrent(call: NodeCall) -> Layer | None:
    weights = _constants(call, [1, 2])
    if weights is None:
        return None
    module = recurrent(call, weights[0], weights[1], _bias(call, 3))
    return Layer(module, (0, 5, 6) if call.operator == "LSTM" else (0, 5))


LAYERS: dict[str, LayerMaker] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "RMSNormalization": _rms_norm,
    "RNN": _recurrent,
}
