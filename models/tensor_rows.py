"""Frames with what comes beside them, as tensors: a row of each for every frame."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemem.bundle.further_input import BESIDE, FRAMES, InputSpec
from edgemem.bundle.rows import fields, joined
from edgemem.errors import AttachError

if TYPE_CHECKING:
    from edgemem.models.adaptive.adaptive_model import AdaptiveModel

RESERVED = ("x", "y", "context", "labels")  # arrays of data sets that are no inputs


@dataclass(frozen=True, eq=False)
class TensorRows:
    """Frames x [n, ...], and other inputs by name, each [n, ...]."""

    x: Tensor
    others: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, places: Any) -> TensorRows:
        return self.mapped(lambda tensor: tensor[places])

    @property
    def shape(self) -> torch.Size:
        """Of the frames."""
        return self.x.shape

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.x.device

    def mapped(self, function: Callable[[Tensor], Tensor]) -> TensorRows:
        """What a function makes of each input."""
        others = {name: function(value) for name, value in self.others.items()}
        return TensorRows(function(self.x), others)


Frames = Tensor | TensorRows


def rows(x: Tensor, others: Mapping[str, Tensor] | None) -> Frames:
    """Frames, with others beside them if there are any."""
    return TensorRows(x, dict(others)) if others else x


def frames_of(given: Frames) -> Tensor:
    """The frames alone."""
    return given if isinstance(given, Tensor) else given.x


def others_of(given: Frames) -> Mapping[str, Tensor]:
    """All but the frames."""
    return {} if isinstance(given, Tensor) else given.others


def with_frames(given: Frames, x: Tensor) -> Frames:
    """The same rows with other frames."""
    return rows(x, others_of(given))


def split(given: Frames, size: int) -> list[Frames]:
    """Parts of so many rows, as `torch.split` makes them."""
    return [given[start : start + size] for start in range(0, len(given), size)]


def cat(parts: Sequence[Frames]) -> Frames:
    """Parts with the same inputs, one after another."""
    others = {name: torch.cat([others_of(p)[name] for p in parts]) for name in others_of(parts[0])}
    return rows(torch.cat([frames_of(part) for part in parts]), others)


def repeated(given: Frames, count: int) -> Frames:
    """So many rows, again from the first on where there are fewer."""
    return given[torch.arange(count) % len(given)]


def named_tensors(given: Frames) -> dict[str, Tensor]:
    """The inputs by their names in the graphs."""
    others = {f"{BESIDE}{name}": value for name, value in others_of(given).items()}
    return {FRAMES: frames_of(given), **others}


def of_array(given: NDArray[Any]) -> Frames:
    """Rows of numpy as the graphs take them -> tensors."""
    found = {name: torch.from_numpy(array) for name, array in fields(given).items()}
    x = found.pop(FRAMES)
    return rows(x, {name.removeprefix(BESIDE): value for name, value in found.items()})


def to_array(given: Frames) -> NDArray[Any]:
    """Rows as numpy has them."""
    others = {f"{BESIDE}{name}": value.numpy() for name, value in others_of(given).items()}
    return joined(frames_of(given).numpy(), others)


def as_rows(frames: NDArray[Any], inputs: Mapping[str, NDArray[Any]] | None) -> NDArray[Any]:
    """Frames of numpy with others beside them, by name."""
    others = {f"{BESIDE}{name}": np.asarray(array) for name, array in (inputs or {}).items()}
    return joined(frames, others)


def call(network: nn.Module, given: Frames) -> Any:
    """What a network returns: the frames come first, others by name, or else by position."""
    if isinstance(given, Tensor):
        return network(given)
    if taken_by_name(network, given.others):
        return network(given.x, **given.others)
    return network(given.x, *given.others.values())


def taken_by_name(network: nn.Module, names: Mapping[str, Any]) -> bool:
    """Whether the forward of a network has parameters of all these names.

    Raises:
        AttachError: it does not, and takes fewer parameters than there are inputs.
    """
    parameters = inspect.signature(network.forward).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if inspect.Parameter.VAR_KEYWORD in kinds or set(names) <= set(known[1:]):
        return True
    if inspect.Parameter.VAR_POSITIONAL not in kinds and len(known) < 1 + len(names):
        unknown = next(name for name in names if name not in known[1:])
        raise AttachError(
            f"input {unknown!r}",
            f"is not taken by forward({', '.join(known)}) of {type(network).__name__}",
            "Name inputs as its parameters, or leave it out",
        )
    return False


def parameters_beside(network: nn.Module) -> list[str]:
    """Names of what the forward of a network takes by name beside the frames.

    Those of a file are what it says; labels are none, whoever takes them.
    """
    if (known := known_beside(network)) is not None:
        return [spec.name for spec in known]
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in kinds and p.name not in RESERVED]


def known_beside(network: nn.Module) -> tuple[InputSpec, ...] | None:
    """What a file says that its network takes beside the frames; None where nothing is said."""
    return getattr(network, "beside", None)


def source_rows(model: AdaptiveModel) -> NDArray[Any] | None:
    """The source frames that a model knows, with what came beside them; None without any."""
    if model.source_frames is None:
        return None
    others = {name: value.numpy() for name, value in model.source_beside.items()}
    return as_rows(model.source_frames.numpy(), others)
