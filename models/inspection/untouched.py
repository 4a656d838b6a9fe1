"""Whether an adaptive model at rest is the model that was given, and if not, where they part."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.data import to_float
from edgemem.models.input_sizes import resized
from edgemem.models.tensor_rows import Frames, frames_of, source_rows, split, with_frames

if TYPE_CHECKING:
    from edgemem.models.adaptive.adaptive_model import AdaptiveModel

LIMIT = 1e-4  # relative to the largest value above one: rounding mostly stays far below
MOST_ROUNDING, IN_FLOAT64 = 1e-2, 1e-9  # where it does not, and where it is told from a difference
CHUNK = 16  # frames at once
SOURCE_FRAMES = 64  # that are compared
Call = tuple[str, int]  # name of a module, and which of its runs


def twin_of(network: nn.Module) -> nn.Module:
    """Another module of the same classes over the same arrays: it takes no memory to speak of."""
    arrays = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(array): array for array in arrays})


def check_untouched(model: AdaptiveModel, frames: Frames) -> None:
    """Compare the adaptive model at the zero block and source statistics with the given one.

    Some networks round so much that two orders of the same sums part by more than the limit. They
    have to agree in float64.

    frames: [n, ...] float32.

    Raises:
        AttachError: they differ; it names the first module in order of execution that does.
    """
    for x in split(frames, CHUNK):
        with torch.no_grad():
            given, found = model.untouched_outputs(x), _at_rest(model, x)
        off = max(distance(found[name], given[name], model.attachment.floor) for name in given)
        if not off <= LIMIT and not (off <= MOST_ROUNDING and _is_rounding(model, x)):
            raise _difference(model, x, off)


def _is_rounding(model: AdaptiveModel, x: Frames) -> bool:
    """Whether both compute the same in float64."""
    try:
        wide, frames = copy.deepcopy(model).double(), with_frames(x, frames_of(x).double())
        with torch.no_grad():
            given, found = wide.untouched_outputs(frames), _at_rest(wide, frames)
    except Exception:  # noqa: BLE001 - the user's own model, which may know of float32 alone
        return False
    return max(distance(found[n], given[n], wide.attachment.floor) for n in given) <= IN_FLOAT64


def known_source(model: AdaptiveModel) -> Frames | None:
    """Some frames of the source [n, ...] float32, where the model was warmed up on any.

    Of the size that the model is for.
    """
    known = source_rows(model)
    if known is None:
        return None
    found: Frames = to_float(known[:SOURCE_FRAMES])
    if isinstance(found, Tensor):
        return resized(found, model.attachment.input_shape)
    return found


def distance(found: Tensor, given: Tensor, floor: float = 1.0) -> float:
    """Largest difference, relative to the largest given value where that is above `floor`."""
    if found.shape != given.shape:
        return float("inf")
    if found.numel() == 0:
        return 0.0
    same = (found == given) | (found.isnan() & given.isnan())
    largest = max(floor, float(given.abs().nan_to_num().max()))
    off = torch.where(same, 0.0, (found - given).abs() / largest)
    return float(off.nan_to_num(nan=float("inf")).max())


def draws_random(thing: str) -> AttachError:
    """For a model, or a module of it, whose answers to the same frames differ."""
    return AttachError(
        thing,
        "draws random numbers in eval mode, so no answer of it can be compared",
        "Let it draw none in eval mode",
    )


def _at_rest(model: AdaptiveModel, x: Frames) -> dict[str, Tensor]:
    zero = {name: torch.zeros_like(value) for name, value in model.block().items()}
    try:
        output = model.with_block(zero, x)
        return output.named or {"logits": output.logits}
    except Exception as error:
        raise AttachError(
            f"model {type(model.frozen).__name__}",
            f"fails where its BatchNorm layers stand replaced ({type(error).__name__}: {error})",
            "Let its forward call those layers and read no other attributes of them",
        ) from error


def _difference(model: AdaptiveModel, x: Frames, off: float) -> AttachError:
    with torch.no_grad():
        given = _outputs(model.untouched, lambda: model.untouched_outputs(x))
        again = _outputs(model.untouched, lambda: model.untouched_outputs(x))
        found = _outputs(model.frozen, lambda: _at_rest(model, x))
    whole = f"model {type(model.frozen).__name__}"
    if (random := _first(again, given)) is not None:
        return draws_random(f"module {random[0]!r}")
    first = _first(found, given)
    return AttachError(
        whole if first is None else f"module {first[0]!r}",
        "is not that of the model that was given: its output is off by "
        f"{off if first is None else first[1]:.1e} of its size, the answers by {off:.1e}, "
        f"limit {LIMIT:.0e}",
        "Report the model, with the class of that module",
    )


def _outputs(network: nn.Module, run: Callable[[], Any]) -> dict[Call, list[Tensor]]:
    """What each module returns in a pass, by call; those that are over first before others."""
    seen: dict[Call, list[Tensor]] = {}
    calls: Counter[str] = Counter()

    def noting(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: object, output: object) -> None:
            values = output if isinstance(output, (tuple, list)) else [output]
            tensors = [value.clone() for value in values if isinstance(value, Tensor)]
            seen[name, calls[name]] = tensors
            calls[name] += 1

        return note

    handles = [m.register_forward_hook(noting(n)) for n, m in network.named_modules() if n]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _first(
    found: Mapping[Call, list[Tensor]], given: Mapping[Call, list[Tensor]]
) -> tuple[str, float] | None:
    """Name of the first module whose outputs differ, and how far."""
    for (name, call), values in given.items():
        others = found.get((name, call))
        if others is None:
            continue  # a module within one that was replaced
        if len(others) != len(values):
            return name, float("inf")
        worst = max(map(distance, others, values), default=0.0)
        if not worst <= LIMIT:
            return name, worst
    return None
