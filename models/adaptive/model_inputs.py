"""What comes beside the frames of a model, and what numbers it takes: found by an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import FRAMES, INPUT_DTYPES, InputSpec
from edgemem.bundle.reference_frames import reference_frames
from edgemem.errors import AttachError
from edgemem.models.tasks.named_outputs import NAME
from edgemem.models.tensor_rows import Frames, call, frames_of, known_beside, of_array, others_of

Limits = Mapping[str, tuple[int, int]]  # of whole numbers, by input
EXAMPLES = 8  # frames of no meaning
LARGEST = 1 << 24  # whole numbers beyond it are no places in a table


def input_specs(
    network: nn.Module, example: Frames
) -> tuple[tuple[int, int] | None, tuple[InputSpec, ...]]:
    """Limits of token ids, None where frames are float32; and the inputs beside the frames.

    Whole numbers may be what the table has that they choose from (`nn.Embedding`), or else what
    the example holds.

    Raises:
        AttachError: frames or an input of another dtype, name or number of rows.
    """
    x, others = frames_of(example), others_of(example)
    if x.dtype not in (torch.float32, torch.int64):
        raise AttachError("example input", f"is {x.dtype}", "Pass float32, or token ids as int64")
    for name, value in others.items():
        _check(name, value, len(x))
    if x.dtype != torch.int64 and not others:
        return None, ()
    limits = {FRAMES: _observed(x)} | {name: _observed(value) for name, value in others.items()}
    limits |= _of_tables(network, example[:2])
    ids = limits[FRAMES]
    specs = tuple(
        InputSpec(name, _dtype(value), tuple(value.shape[1:]), *limits[name])
        for name, value in others.items()
    )
    return (int(ids[0]), int(ids[1])) if x.dtype == torch.int64 else None, specs


def _check(name: str, value: Tensor, frames: int) -> None:
    thing = f"input {name!r}"
    if not NAME.fullmatch(name) or name == FRAMES:
        raise AttachError(thing, "has a name that no graph has", "Name it as a variable of Python")
    if not isinstance(value, Tensor) or _dtype(value) not in INPUT_DTYPES:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise AttachError(thing, f"is {kind}", f"Pass a tensor of {', '.join(INPUT_DTYPES)}")
    if value.dim() < 1 or len(value) != frames:
        reason = f"has shape {list(value.shape)} beside {frames} frames"
        raise AttachError(thing, reason, "Pass one row for each frame")


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _observed(value: Tensor) -> tuple[float, float]:
    if value.dtype == torch.bool or not value.numel():
        return 0.0, 1.0
    low, high = float(value.min()), float(value.max())
    return (low, high) if value.dtype == torch.int64 or high > low else (0.0, 1.0)


def _of_tables(network: nn.Module, example: Frames) -> dict[str, tuple[float, float]]:
    """Limits of those inputs that choose rows of a table."""
    own: Limits = getattr(network, "input_limits", {})
    found: dict[str, tuple[float, float]] = {name: (a, b) for name, (a, b) in own.items()}
    given = {FRAMES: frames_of(example), **others_of(example)}
    whole = {name: value for name, value in given.items() if value.dtype == torch.int64}

    def look(table: nn.Module, arguments: tuple[Any, ...]) -> None:
        for name, value in whole.items():
            places = arguments[0] if arguments else None
            if isinstance(places, Tensor) and places.shape == value.shape and places.equal(value):
                assert isinstance(table, nn.Embedding)
                most = min(found.get(name, (0.0, float(LARGEST)))[1], table.num_embeddings - 1.0)
                found[name] = 0.0, most

    tables = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    handles = [table.register_forward_pre_hook(look) for table in tables]
    try:
        with torch.no_grad():
            call(network, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def example_of(model: nn.Module, shape: tuple[int, ...]) -> Frames:
    """Frames of no meaning, with what a file says that its model takes beside them."""
    ids, beside = getattr(model, "ids", None), known_beside(model) or ()
    if ids is None and not beside:
        return torch.zeros(2, *shape)
    spec = FrameSpec(shape, EXAMPLES, companions=False, known_companions=0, ids=ids, inputs=beside)
    return of_array(reference_frames(spec))
