"""Which tensors of a network moments can be aligned behind: outputs of its layers, as they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.inspection.trial import other_frames, rows_of_frame, trial_frames
from edgemem.models.tensor_rows import Frames

Kind = Literal["convolution", "linear", "norm", "recurrent layer"]
Answer = Callable[[Frames], Sequence[Tensor]]  # all that a network answers to frames
CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
CHANNELS_FIRST = (*CONVOLUTIONS, nn.GroupNorm)


@dataclass(frozen=True)
class Candidate:
    """One module behind which an identity norm can stand.

    Attributes:
        axis: of the channels in what it returns, 1 or -1.
        rows: of its output for each frame, one frame after another.
        positions: values of a channel in a row.
    """

    name: str
    kind: Kind
    channels: int
    axis: int
    rows: int
    positions: int


def candidates(network: nn.Module, answer: Answer, example: Frames) -> list[Candidate]:
    """Modules of a network behind which moments can be aligned, in order of their run.

    A layer that answers is none of them, nor what runs twice in a pass, mixes frames, or gives
    one number a channel where other layers give many (gates of squeeze-and-excitation).
    """
    x = trial_frames(example)
    first, answered = _outputs(network, answer, x)
    second, _ = _outputs(network, answer, other_frames(x))
    found = [
        candidate
        for name, (module, outputs) in first.items()
        if len(outputs) == 1 and not any(outputs[0].shape == y.shape for y in answered)
        if (candidate := _candidate(name, module, outputs[0], second[name][1][0])) is not None
        if _has_effect(module, answer, x, answered)
    ]
    if any(candidate.positions > 1 for candidate in found):
        return [candidate for candidate in found if candidate.positions > 1]
    return found


def named_sites(
    network: nn.Module, answer: Answer, example: Frames, names: tuple[str, ...]
) -> list[Candidate]:
    """The candidates of these names, in order of their run.

    Raises:
        AttachError: one is no candidate; those that are, are named.
    """
    if not names:
        return []
    known = {candidate.name: candidate for candidate in candidates(network, answer, example)}
    for name in names:
        if name not in known:
            some = ", ".join(list(known)[:5]) or "none in this model"
            raise AttachError(
                f"site {name!r}",
                "is no layer behind which moments can be aligned: one that runs once, gives one "
                "tensor frame by frame, and does not answer",
                f"Leave sites out, or name such layers: {some}",
            )
    return [candidate for name, candidate in known.items() if name in names]


def _has_effect(module: nn.Module, answer: Answer, x: Frames, answered: Sequence[Tensor]) -> bool:
    """Whether the answer changes with what a recurrent layer gives for every moment.

    Some networks read its last state alone. Other layers are not asked.
    """
    if not isinstance(module, nn.RNNBase):
        return True
    handle = module.register_forward_hook(lambda _, __, output: (0.5 * output[0], *output[1:]))
    try:
        with torch.no_grad():
            return not all(map(torch.equal, answer(x), answered))
    finally:
        handle.remove()


def _candidate(name: str, module: nn.Module, y: Tensor, other: Tensor) -> Candidate | None:
    kind = kind_of(module)
    if kind is None or y.dim() < 2 or not y.is_floating_point():
        return None
    axis = 1 if y.dim() == 2 or isinstance(module, CHANNELS_FIRST) else _axis(module, y)
    rows = rows_of_frame(y, other)
    if rows is None or y.shape[axis] < 2:
        return None
    positions = y[0].numel() // y.shape[axis]
    return Candidate(name, kind, y.shape[axis], axis, rows, positions)


def kind_of(module: nn.Module) -> Kind | None:
    """What a module is; None where it is no layer of these kinds."""
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.RNNBase):  # its outputs [n, t, c]; those that are not first mix frames
        return "recurrent layer" if module.batch_first else None
    if isinstance(module, BATCH_NORMS):
        return None
    is_norm = isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or "RMSNorm" in type(module).__name__
    return "norm" if is_norm else None


def first_of(output: object) -> Tensor | None:
    """What a layer gives: its output, or the first of a recurrent layer's."""
    found = output[0] if isinstance(output, tuple) and output else output
    return found if isinstance(found, Tensor) else None


def _axis(module: nn.Module, y: Tensor) -> int:
    """Some LayerNorms permute inside and give [n, c, h, w]: their weight tells."""
    weight = getattr(module, "weight", None)
    if kind_of(module) == "norm" and isinstance(weight, Tensor) and weight.dim() == 1:
        return -1 if y.shape[-1] == len(weight) else 1
    return -1


Outputs = dict[str, tuple[nn.Module, list[Tensor]]]


def _outputs(network: nn.Module, answer: Answer, x: Frames) -> tuple[Outputs, Sequence[Tensor]]:
    seen: Outputs = {}
    with _watching(network, seen), torch.no_grad():
        return seen, answer(x)


@contextmanager
def _watching(network: nn.Module, seen: Outputs) -> Iterator[None]:
    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, _: object, output: object) -> None:
            found = first_of(output)
            if found is not None:
                seen.setdefault(name, (module, []))[1].append(found.detach().clone())

        return note

    handles = [
        module.register_forward_hook(noting(name))
        for name, module in network.named_modules()
        if kind_of(module) is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
