"""Moments of a batch of images around known means, with a gradient that costs two passes.

They are taken around the source means: there mean squares lose no digits that matter, and the
distance is what a norm scales anyway, so an engine takes it for nothing from the bias of the
convolution before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class FrameMoments(NamedTuple):
    """Of each frame, per channel: mean and mean square of the distance to the source mean.

    Both [n, channels].
    """

    mean: Tensor
    square: Tensor

    def pooled(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (as a distance to the source mean) and variance of all frames, both [channels].

        weights: [n], of sum one; None = all alike.
        """
        if weights is None:
            return _central(self.mean.mean(0), self.square.mean(0))
        return _central(weighted_sum(weights, self.mean), weighted_sum(weights, self.square))

    def joined(self, rows: int) -> FrameMoments:
        """Of frames that are so many rows each, one after another."""
        if rows == 1:
            return self
        return FrameMoments(*(v.view(-1, rows, v.shape[1]).mean(1) for v in self))


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """[n] and [n, channels] -> [channels].

    A product of two matrices: of a vector and a matrix, torch makes an operator in place, for
    which a traced step has to be lowered twice.
    """
    return torch.mm(weights.view(1, -1), values).view(-1)


def per_channel(v: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """[channels] -> a shape that broadcasts over x, whose channels lie on that axis."""
    if axis in (-1, x.dim() - 1):
        return v
    return v.view([1, -1] + [1] * (x.dim() - 2))


def within_frame(x: Tensor, axis: int = 1) -> list[int]:
    """The axes of x [n, ...] that are neither frames nor channels. axis: of channels, 1 or -1."""
    return list(range(2, x.dim())) if axis == 1 else list(range(1, x.dim() - 1))


def batch_moments(x: Tensor, weights: Tensor | None = None, axis: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance per channel of [n, channels, ...], both [channels].

    weights: [n], of sum one, of the frames; None = all alike. axis: of the channels, 1 or -1. In
    two passes, so exact wherever the mean lies.
    """
    within = within_frame(x, axis)

    def pooled(values: Tensor) -> Tensor:
        if weights is None:
            return values.mean([0, *within])
        return weighted_sum(weights, values.mean(within) if within else values)

    mean = pooled(x)
    return mean, pooled((x - per_channel(mean, x, axis)).square())


def frame_moments(x: Tensor, source_mean: Tensor, axis: int = 1) -> FrameMoments:
    """Moments of each frame of x [n, channels, ...]. axis: of the channels, 1 or -1."""
    return distance_moments(x - per_channel(source_mean, x, axis), axis)


def distance_moments(distance: Tensor, axis: int = 1) -> FrameMoments:
    """The same, where the distance [n, channels, ...] to the source means is known."""
    return FrameMoments(*_moments(distance, within_frame(distance, axis)))


def pooled_moments(distance: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (as a distance to the source mean) and variance of all frames, both [channels].

    The variance is good to about 1e-7 of the squared mean. axis: of the channels, 1 or -1.
    """
    return _central(*_moments(distance, [0, *within_frame(distance, axis)]))


def _central(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    # Below zero by rounding only. Engines may clamp an overflow to a number; this keeps it.
    return mean, (square - mean * mean).abs()


def _moments(distance: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    if not dims:  # which torch's mean would take for all of them
        return distance, distance * distance
    found: tuple[Tensor, Tensor] = _Moments.apply(distance, dims)  # type: ignore[no-untyped-call]
    return found


class _Moments(torch.autograd.Function):
    """Mean and mean square over some dimensions.

    Torch's own gradient spreads out both means and takes seven passes over the images.
    """

    @staticmethod
    def forward(distance: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
        return distance.mean(dims), (distance * distance).mean(dims)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, list[int]], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.dims = inputs[1]

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_square: Tensor) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        kept = [1 if axis in ctx.dims else size for axis, size in enumerate(distance.shape)]
        count = distance.numel() / of_mean.numel()
        slope = (of_square * (2.0 / count)).view(kept)
        return distance * slope + (of_mean / count).view(kept), None
