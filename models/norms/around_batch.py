"""An affine map around moments that a batch takes part in, with a gradient of few operators.

Its forward pass is that of batch normalisation (Ioffe & Szegedy, 2015, algorithm 1), the batch's
moments weighed by a share. Torch would take the gradient apart into forty operators on vectors; for
a network of many small layers, these cost more than its images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgemem.models.norms.moments import per_channel, within_frame


class Around(NamedTuple):
    """What a batch [n, channels, ...] is normalised around, all [channels] but the share.

    Attributes:
        mean: of the batch, as a distance to the source mean.
        shift: the mean that is taken, as a distance, too.
        deviation: the square root of the variance that is taken, epsilon included.
        share: scalar, of the batch's moments in those that are taken.
    """

    mean: Tensor
    shift: Tensor
    deviation: Tensor
    share: Tensor


def around_batch(
    distance: Tensor,
    pair: tuple[Tensor, Tensor],
    around: Around,
    frame_weights: Tensor | None,
    axis: int,
) -> Tensor:
    """(distance - shift) / deviation * weight + bias, of the same shape as the distance.

    The gradient is that through the batch's moments, too, which `around` holds as plain numbers.

    Args:
        distance: [n, channels, ...] to the source mean.
        pair: weight and bias, [channels].
        around: of this batch.
        frame_weights: [n], of sum one, by which the batch's moments were taken; None = all alike.
        axis: of the channels, 1 or -1.
    """
    plain = (value.detach() for value in around)
    found: Tensor = _AroundBatch.apply(distance, *pair, frame_weights, axis, *plain)  # type: ignore[no-untyped-call]
    return found


class _AroundBatch(torch.autograd.Function):
    @staticmethod
    def forward(
        distance: Tensor,
        weight: Tensor,
        bias: Tensor,
        frame_weights: Tensor | None,
        axis: int,
        *around: Tensor,
    ) -> Tensor:
        _, shift, deviation, _ = around
        scale = weight / deviation
        rest = per_channel(bias - shift * scale, distance, axis)
        return distance * per_channel(scale, distance, axis) + rest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        distance, weight, _, frame_weights, ctx.axis, *around = inputs
        ctx.save_for_backward(distance, weight, frame_weights, *around)

    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        distance, weight, frame_weights, mean, shift, deviation, share = ctx.saved_tensors
        axis, scale = ctx.axis, weight / deviation
        over = [0, *within_frame(distance, axis)]
        of_bias = of_output.sum(over)
        of_weight = ((of_output * distance).sum(over) - of_bias * shift) / deviation
        # Of all that a channel holds; slope and rest are those of the batch's mean square and mean.
        part = share / (distance.numel() // mean.numel())
        slope = of_weight * (scale / deviation) * -part
        rest = of_bias * scale * -part - mean * slope

        def spread(v: Tensor) -> Tensor:
            v = per_channel(v, distance, axis)
            if frame_weights is None:
                return v
            each: Tensor = frame_weights * len(frame_weights)
            return v * each.view([-1] + [1] * (distance.dim() - 1))

        through_moments = distance * spread(slope) + spread(rest)
        of_distance = of_output * per_channel(scale, distance, axis) + through_moments
        return of_distance, of_weight, of_bias, *(None for _ in range(6))
