"""Operators on pictures and signals: pools and changes of size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.models.onnx_files.operators.calls import NodeCall, Operator, Refused, axis_of, bounded

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
CUBIC_COEFFICIENT = -0.75


def window(call: NodeCall, kernel: Sequence[int], sizes: Sequence[int]) -> dict[str, list[int]]:
    """Strides, dilations and padding of a window that moves over axes of those sizes.

    Returns lists by name: strides, dilations, low and high (padding at either end).

    Raises Refused for numbers that fit no window.
    """
    rank = len(kernel)
    strides = list(call.attribute("strides", [1] * rank))
    dilations = list(call.attribute("dilations", [1] * rank))
    pads, automatic = (
        list(call.attribute("pads", [0] * 2 * rank)),
        call.attribute("auto_pad", "NOTSET"),
    )
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = [*less, *more] if automatic == "SAME_UPPER" else [*more, *less]
    elif automatic == "VALID":
        pads = [0] * 2 * rank
    if not len(strides) == len(dilations) == len(pads) // 2 == rank or min(strides) < 1:
        raise Refused(f"has a window of {list(kernel)} with strides {strides} and pads {pads}")
    if min(pads) < 0:
        raise Refused("cuts off edges by negative pads")
    return {"strides": strides, "dilations": dilations, "low": pads[:rank], "high": pads[rank:]}


def torch_order(low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Padding as torch's pad takes it: the last axis first, both ends together."""
    return [size for pair in reversed(list(zip(low, high, strict=True))) for size in pair]


def _max_pool(call: NodeCall) -> Tensor:
    if call.outputs > 1:
        raise Refused("gives the places of largest values too")
    x, kernel = call.tensor(), list(call.attribute("kernel_shape"))
    if len(kernel) not in MAX_POOLS or len(kernel) != x.dim() - 2:
        raise Refused(f"pools over {len(kernel)} axes")
    found = window(call, kernel, x.shape[2:])
    padding, ceil = found["low"], bool(call.attribute("ceil_mode", 0))
    if found["low"] != found["high"] or any(
        2 * p > k for p, k in zip(padding, kernel, strict=True)
    ):
        x = F.pad(x, torch_order(found["low"], found["high"]), value=-math.inf)
        padding = [0] * len(kernel)
    pool: Callable[..., Tensor] = MAX_POOLS[len(kernel)]
    return pool(x, kernel, found["strides"], padding, found["dilations"], ceil)


def _average_pool(call: NodeCall) -> Tensor:
    x, kernel = call.tensor(), list(call.attribute("kernel_shape"))
    if len(kernel) not in AVERAGE_POOLS or len(kernel) != x.dim() - 2:
        raise Refused(f"pools over {len(kernel)} axes")
    found = window(call, kernel, x.shape[2:])
    if set(found["dilations"]) != {1}:
        raise Refused("averages with dilations")
    pool: Callable[..., Tensor] = AVERAGE_POOLS[len(kernel)]
    ceil, counts = (
        bool(call.attribute("ceil_mode", 0)),
        bool(call.attribute("count_include_pad", 0)),
    )
    padding = found["low"]
    small = all(2 * p <= k for p, k in zip(padding, kernel, strict=True))
    if padding == found["high"] and small:
        return pool(x, kernel, found["strides"], padding, ceil, counts)
    if ceil:
        raise Refused("averages with uneven padding and ceil_mode")
    order = torch_order(found["low"], found["high"])
    total = pool(F.pad(x, order), kernel, found["strides"])
    if counts:
        return total
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    return total / pool(F.pad(inside, order), kernel, found["strides"])


def _global(function: Callable[[Tensor, list[int]], Tensor]) -> Operator:
    def run(call: NodeCall) -> Tensor:
        x = call.tensor()
        return function(x, list(range(2, x.dim())))

    return run


def _resize(call: NodeCall) -> Tensor:
    """Resize, and Upsample as it was before opset 10."""
    x = call.tensor()
    old = call.version < 11
    scales, sizes = _wanted(call, x, old)
    outside = call.attribute("coordinate_transformation_mode", "half_pixel")
    where = "asymmetric" if old else outside
    mode = call.attribute("mode", "nearest")
    if call.attribute("antialias", 0) or call.attribute("exclude_outside", 0):
        raise Refused("resizes with antialias or exclude_outside")
    if scales[:2] != [1.0, 1.0] or sizes[1] != x.shape[1]:
        raise Refused("resizes batch or channels")
    if mode == "nearest":
        rounding = "floor" if old else call.attribute("nearest_mode", "round_prefer_floor")
        return _nearest(x, scales, sizes, where, rounding)
    if mode == "cubic":
        return _cubic(call, x, scales, sizes, where)
    if mode not in ("linear", "bilinear"):
        raise Refused(f"resizes by {mode!r}")
    return _linear(x, scales, sizes, where)


def _wanted(call: NodeCall, x: Tensor, old: bool) -> tuple[list[float], list[int]]:
    """Scale and size of every axis."""
    place = (1 if call.operator == "Upsample" or call.version < 11 else 2, 3)
    axes = call.attribute("axes")
    if not old and call.given(3) and call.host(3).size:
        if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Refused("keeps the aspect ratio")
        given = call.sizes(3)
        sizes = list(x.shape)
        for axis, size in zip(axes or range(x.dim()), given, strict=True):
            sizes[axis_of(axis, x.dim())] = size
        return [1.0, 1.0, *(s / o for s, o in zip(sizes[2:], x.shape[2:], strict=True))], _like(
            x, sizes
        )
    raw = call.attribute("scales")
    raw = call.host(place[0]).ravel().tolist() if raw is None else list(raw)
    scales = [1.0] * x.dim()
    for axis, scale in zip(axes or range(x.dim()), raw, strict=True):
        scales[axis_of(axis, x.dim())] = float(scale)
    found = [
        math.floor(size * scale + 1e-6) for size, scale in zip(x.shape[2:], scales[2:], strict=True)
    ]
    return scales, _like(x, [x.shape[0], x.shape[1], *found])


def _like(x: Tensor, sizes: list[Any]) -> list[Any]:
    """Sizes for as many frames as there are."""
    bounded(sizes[1:])
    if min(sizes[2:]) < 1:
        raise Refused("resizes to nothing")
    return [x.shape[0], *sizes[1:]]


def _whole(scales: Sequence[float]) -> bool:
    return all(scale == int(scale) for scale in scales)


def _nearest(x: Tensor, scales: list[float], sizes: list[int], where: str, rounding: str) -> Tensor:
    # By a whole factor, these ways of rounding take the same pixel.
    half = where in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round")
    plain = half or (where, rounding) == ("asymmetric", "floor")
    if plain and _whole(scales[2:]):
        return F.interpolate(x, size=list(sizes[2:]), mode="nearest")
    for axis in range(2, x.dim()):
        if sizes[axis] == x.shape[axis]:
            continue
        size = x.shape[axis]
        places = _places(size, sizes[axis], scales[axis], where)
        taken = [min(max(_rounded(place, rounding), 0), size - 1) for place in places]
        x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64))
    return x


def _linear(x: Tensor, scales: list[float], sizes: list[int], where: str) -> Tensor:
    exact = all(
        sizes[axis] == x.shape[axis] * scales[axis] or sizes[axis] == x.shape[axis]
        for axis in range(2, x.dim())
    )
    aligned = where == "align_corners"
    half = where in ("half_pixel", "half_pixel_symmetric") or (
        where == "pytorch_half_pixel" and min(sizes[2:]) > 1
    )
    if aligned or (half and exact):
        mode = LINEAR.get(x.dim() - 2)
        if mode is None:
            raise Refused(f"resizes {x.dim() - 2} axes")
        return F.interpolate(x, size=list(sizes[2:]), mode=mode, align_corners=aligned)
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        if sizes[axis] == size:
            continue
        places = _places(size, sizes[axis], scales[axis], where)
        places = [min(max(place, 0.0), size - 1.0) for place in places]
        low = [math.floor(place) for place in places]
        high = [min(index + 1, size - 1) for index in low]
        shape = [1] * x.dim()
        shape[axis] = -1
        shares = [place - index for place, index in zip(places, low, strict=True)]
        share = torch.tensor(shares, dtype=x.dtype).view(shape)
        first, second = (
            x.index_select(axis, torch.tensor(index, dtype=torch.int64)) for index in (low, high)
        )
        x = first * (1 - share) + second * share
    return x


def _cubic(call: NodeCall, x: Tensor, scales: list[float], sizes: list[int], where: str) -> Tensor:
    aligned = where == "align_corners"
    fits = aligned or where in ("half_pixel", "pytorch_half_pixel")
    exact = aligned or all(
        s == o * f for s, o, f in zip(sizes[2:], x.shape[2:], scales[2:], strict=True)
    )
    if not (
        fits
        and exact
        and x.dim() == 4
        and call.attribute("cubic_coeff_a", -0.75) == CUBIC_COEFFICIENT
    ):
        raise Refused(f"resizes by cubic with {where}")
    return F.interpolate(x, size=list(sizes[2:]), mode="bicubic", align_corners=aligned)


def _places(size: int, wanted: int, scale: float, where: str) -> list[float]:
    """Where in the old axis each place of the new one lies."""
    new = range(wanted)
    if where == "asymmetric":
        return [i / scale for i in new]
    if where == "align_corners":
        return [i * (size - 1) / max(wanted - 1, 1) for i in new]
    if where == "pytorch_half_pixel" and wanted == 1:
        return [0.0]
    if where in ("half_pixel", "pytorch_half_pixel"):
        return [(i + 0.5) / scale - 0.5 for i in new]
    raise Refused(f"resizes with {where}")


def _rounded(place: float, rounding: str) -> int:
    if rounding == "floor":
        return math.floor(place)
    if rounding == "ceil":
        return math.ceil(place)
    if rounding == "round_prefer_floor":
        return math.ceil(place - 0.5)
    if rounding == "round_prefer_ceil":
        return math.floor(place + 0.5)
    raise Refused(f"rounds by {rounding!r}")


IMAGES: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Upsample": _resize,
}
