"""Many small arrays as one vector: what is done to each number alone takes one operator for all.

An engine spends as long on an operator of sixteen numbers as on one of a thousand, and a network
with fifty norms has hundreds of such arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Arrays = dict[str, Tensor]


class Joint:
    """Arrays that lie one after another in a vector.

    arrays: of any shapes, by name; their values do not matter.
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self._shapes = {name: array.shape for name, array in arrays.items()}

    def vector(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Those arrays, joined, [numbers]."""
        return torch.cat([_reshaped(arrays[name], (-1,)) for name in self._shapes])

    def parts(self, vector: Tensor) -> Arrays:
        """The arrays that a vector holds."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = torch.split(vector, sizes)
        return {
            name: _reshaped(part, shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def _reshaped(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    return array if array.dim() == len(shape) == 1 else array.reshape(shape)


def for_each(function: Callable[..., Tensor], *arrays: Mapping[str, Tensor]) -> Arrays:
    """What a function of equally many numbers makes of the arrays of each name.

    function: vectors -> a vector, each number from those at its place. The first arrays say which
    names there are.
    """
    if not arrays[0]:
        return {}
    joint = Joint(arrays[0])
    return joint.parts(function(*map(joint.vector, arrays)))


def small(arrays: Mapping[str, Tensor], names: Iterable[str] | None = None) -> Arrays:
    """The arrays that are vectors or single numbers, and not images or kernels."""
    chosen = arrays if names is None else names
    return {name: arrays[name] for name in chosen if arrays[name].dim() <= 1}
