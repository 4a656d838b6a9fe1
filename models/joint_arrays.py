"""Many small arrays as one vector: what is done to each number alone takes one operator for all.

An engine spends as long on an operator of sixteen numbers as on one of a thousand, and a network
with fifty norms has hundreds of such arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


def small(arrays: Mapping[str, Tensor]) -> Arrays:
    """The arrays that are vectors or single numbers, and not images or kernels."""
    return {name: array for name, array in arrays.items() if array.dim() <= 1}


def for_each(function: Callable[..., Tensor], *arrays: Mapping[str, Tensor]) -> Arrays:
    """What a function makes of the arrays of each name, the small ones joined.

    function: arrays of one shape -> an array of it, each number from those at its place. The first
    arrays say which names there are.
    """
    vectors = small(arrays[0])
    joint = Joint(vectors)
    joined = joint.parts(function(*map(joint.vector, arrays))) if vectors else {}
    return {
        name: joined[name] if name in joined else function(*(each[name] for each in arrays))
        for name in arrays[0]
    }


def _reshaped(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    return array if array.dim() == len(shape) == 1 else array.reshape(shape)
