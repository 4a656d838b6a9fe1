"""What one operator of a file is called with.

Two kinds of values flow through a network that was read from a file. Tensors are what torch
computes. Host values are numpy arrays: sizes, indices and what is computed of them. They stay out
of torch, so that a size that is not fixed, such as that of the batch, stays a symbol while the
network is traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Host = NDArray[Any]
Value = Tensor | Host | None
MOST_VALUES = 1 << 28  # of one tensor that a file makes of a few frames


class Refused(Exception):
    """An operator, or a form of it, that is not converted. reason: what of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class NodeCall:
    """One node of a file with the values that go into it.

    Attributes:
        version: of the operator set.
        outputs: how many the node has.
        constants: inputs that are known before any frame, by position.
    """

    operator: str
    version: int
    attributes: Mapping[str, Any]
    outputs: int
    constants: Mapping[int, Host]
    inputs: Sequence[Value] = ()

    def on(self, inputs: Sequence[Value]) -> NodeCall:
        """The same call with these values."""
        return replace(self, inputs=inputs)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node, or its default."""
        return self.attributes.get(name, default)

    def given(self, position: int) -> bool:
        """Whether the node has that input."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def tensor(self, position: int = 0) -> Tensor:
        """An input as a tensor."""
        value = self.inputs[position]
        assert value is not None
        return as_tensor(value)

    def host(self, position: int) -> Host:
        """An input as a host value.

        Raises Refused where it depends on the frames.
        """
        value = self.constants.get(position)
        if value is None:
            found = self.inputs[position]
            if isinstance(found, Tensor) or found is None:
                raise Refused(f"input {position} depends on what is in the frames")
            value = found
        return value

    def sizes(self, position: int) -> list[Any]:
        """An input as a list of sizes or indices, which may be symbols."""
        return [_whole(size) for size in self.host(position).ravel().tolist()]

    def list(self, name: str, position: int) -> list[Any] | None:
        """Sizes that are an attribute in old files and an input in new ones."""
        if name in self.attributes:
            return list(self.attributes[name])
        return self.sizes(position) if self.given(position) else None

    def number(self, position: int, default: float) -> float:
        """A constant input of one number, as a float."""
        return float(self.host(position).item()) if self.given(position) else default


Operator = Callable[[NodeCall], Any]  # gives a Value, or a tuple of them


def as_tensor(value: Tensor | Host) -> Tensor:
    """A value as a tensor; a symbol as one number."""
    if isinstance(value, Tensor):
        return value
    if value.dtype == object:
        return torch.stack([torch.scalar_tensor(v, dtype=torch.int64) for v in value.ravel()]).view(
            value.shape
        )
    return torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)


def bounded(sizes: Sequence[Any]) -> Sequence[Any]:
    """The same sizes.

    Raises Refused where they make more values than a file may.
    """
    known = [size for size in sizes if isinstance(size, int)]
    if math.prod(max(size, 1) for size in known) > MOST_VALUES:
        raise Refused(f"makes {list(known)} values, more than {MOST_VALUES:,}")
    return sizes


def axis_of(axis: int, rank: int) -> int:
    """An axis that may be counted from the end, counted from the front."""
    if not -rank <= axis < rank:
        raise Refused(f"names axis {axis} of {rank}")
    return axis % rank


def _whole(size: Any) -> Any:
    return int(size) if isinstance(size, (bool, float)) else size
