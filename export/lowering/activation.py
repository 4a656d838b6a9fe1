"""Activations whose backward pass in torch works in place, which no graph can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x)


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.tanh(F.softplus(x))


SPELLED_OUT: dict[Callable[..., Any], Callable[..., Tensor]] = {F.silu: _silu, F.mish: _mish}


class SpelledOut(TorchFunctionMode):
    """While active, SiLU and Mish are products of simpler functions, each with a plain gradient."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        chosen: Callable[..., Any] = SPELLED_OUT.get(func, func)
        return chosen(*args, **(kwargs or {}))
