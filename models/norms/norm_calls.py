"""Calls of torch's norms: the layer that each one belongs to, and what is computed instead.

A norm is known by the tensors it is called with, not by the class of its layer. So a subclass that
adds an activation, and a model that calls `F.batch_norm` itself, are met alike, and whatever they
do besides stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgemem.models.norms.frozen_norm import InPlaceNorm

# Names of the arguments, in order.
BATCH: dict[Any, tuple[str, ...]] = {
    F.batch_norm: (
        *("input", "running_mean", "running_var", "weight", "bias"),
        *("training", "momentum", "eps"),
    ),
    torch.batch_norm: (
        *("input", "weight", "bias", "running_mean", "running_var"),
        *("training", "momentum", "eps", "cudnn_enabled"),
    ),
}
PAIRED: dict[Any, tuple[str, ...]] = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    torch.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    torch.group_norm: ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    torch.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}
DEFAULT_EPS = 1e-5  # of F.batch_norm


@dataclass(frozen=True)
class NormCall:
    """One call. values: its arguments by name. of_batch: whether it has source statistics."""

    values: dict[str, Any]
    of_batch: bool

    @property
    def mark(self) -> int:
        """Identity of the tensor by which the layer is known; see `marks_of`."""
        return id(self.values.get("running_mean" if self.of_batch else "weight"))


def norm_call(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> NormCall | None:
    """What a call of `func` is, if it is one of a norm."""
    names = BATCH.get(func) or PAIRED.get(func)
    if names is None:
        return None
    return NormCall(dict(zip(names, args, strict=False)) | dict(kwargs), func in BATCH)


def marks_of(layer: nn.Module) -> dict[int, bool]:
    """Identities of a layer's tensors -> whether it is a batch norm.

    By these its calls are known.
    """
    mean = dict(layer.named_buffers(recurse=False)).get("running_mean")
    if mean is not None:
        return {id(mean): True}
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    return {} if weight is None else {id(weight): False}


class AffinePair(nn.Module):
    """Scale and shift of a norm that has no statistics of its source.

    LayerNorm, GroupNorm, RMSNorm.

    In the block they are differences to the frozen ones, as those of a FrozenNorm.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: it belongs to the frozen model
        self.weight_delta: nn.Parameter | None = None
        self.bias_delta: nn.Parameter | None = None

    @property
    def layer(self) -> nn.Module:
        """The norm in the frozen model."""
        return self._layer[0]

    def make_trainable(self) -> None:
        """Put the pair into the block."""
        own = dict(self.layer.named_parameters(recurse=False))
        self.weight_delta = nn.Parameter(torch.zeros_like(own["weight"]))
        if "bias" in own:
            self.bias_delta = nn.Parameter(torch.zeros_like(own["bias"]))

    def forward(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a call -> the same, with what the block adds."""
        new = dict(values)
        for name, delta in (("weight", self.weight_delta), ("bias", self.bias_delta)):
            if delta is not None and new.get(name) is not None:
                new[name] = new[name] + delta
        return new


class RoutedNorms(TorchFunctionMode):
    """While active, calls of the norms' layers are computed by these norms."""

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        super().__init__()
        self._norms: dict[int, InPlaceNorm | AffinePair] = {}
        for norm in norms:
            assert isinstance(norm, (InPlaceNorm, AffinePair))
            self._norms |= dict.fromkeys(marks_of(norm.layer), norm)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        call = norm_call(func, args, kwargs or {})
        norm = None if call is None else self._norms.get(call.mark)
        if call is None or norm is None:
            return func(*args, **(kwargs or {}))
        values = call.values
        if isinstance(norm, AffinePair):
            return func(**norm(values))
        pair = values.get("weight"), values.get("bias")
        result: Tensor = norm(values["input"], *pair, values.get("eps", DEFAULT_EPS))
        return result
