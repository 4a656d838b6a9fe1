"""What a model returns: logits, or something from which logits follow.

Everything after the model, losses, entropies and priors, is about logits. A model that ends in a
softmax or in one sigmoid is recognised by what it gives for many frames, once, when it is attached;
its graphs are traced with the conversion that follows, so none of them branches on values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edgemem.errors import AttachError
from edgemem.models.norms.moments import FrameMoments
from edgemem.models.tensor_rows import Frames, cat, frames_of, repeated, with_frames

# "one logit" and "one probability": of the second of two classes.
Model = Callable[[Frames], Any]
Outputs = Literal["logits", "probabilities", "one logit", "one probability"]
LOG_FLOOR = 1e-30  # of a probability; softmax in fp32 gives zero far below
SIGMOID_FLOOR = 1e-6
SUM_TOLERANCE = 1e-3
RECOGNISE = "Leave out what it returns, and it is recognised"
PROBES, SIZES = 4, (0.1, 1.0, 10.0, 1e2, 1e4, 1e6)  # frames of each deviation that are tried
LINEAR = ("AddmmBackward0", "MmBackward0", "ConvolutionBackward0")
SHAPE_ONLY = {
    f"{name}Backward0"
    for name in ("Squeeze", "Unsqueeze", "View", "UnsafeView", "Select", "Slice", "Alias", "Clone")
} | {"SqueezeBackward1", "ReshapeAliasBackward0"}
SIGMOIDS = (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit)
# Functions that only change the shape, so that they may as well come before a sigmoid.
VIEWS = (
    torch.squeeze, Tensor.squeeze, torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape,
    Tensor.view, torch.unsqueeze, Tensor.unsqueeze, Tensor.__getitem__, Tensor.contiguous,
)  # fmt: skip


class Output(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: [rows, classes]: a row for each frame; of other tasks for each position, step or
            label, see `task_outputs`.
        key: context key [k].
        distances: per meta network, the mean absolute difference between its output and the frozen
            output (R_k of EcoTTA, section 3.2).
        seen: per norm that remembers statistics, its source variance and the moments of every
            frame.
        named: what the model returns, by name; of classes nothing.
    """

    logits: Tensor
    key: Tensor
    distances: tuple[Tensor, ...]
    seen: dict[str, tuple[Tensor, FrameMoments]]
    named: dict[str, Tensor]


def logits_of(model: Model, x: Frames, outputs: Outputs) -> Tensor:
    """Logits [n, classes] of a model for frames as it takes them.

    Raises:
        AttachError: the model returns something else.
    """
    if outputs == "logits":
        return _raw(model(x))
    if outputs == "probabilities":
        return _raw(model(x)).clamp(min=LOG_FLOOR).log()
    if outputs == "one logit":
        return _two(_raw(model(x)))
    with BeforeSigmoid() as before:
        raw = _raw(model(x))
    known = before.of(raw)
    if known is None:
        probability = raw.clamp(SIGMOID_FLOOR, 1 - SIGMOID_FLOOR)
        known = probability.log() - (1 - probability).log()
    return _two(known)


def recognised(model: Model, frames: Frames) -> Outputs:
    """What kind of output a model has, by what it gives for frames [n, ...] as it takes them.

    A linear layer at the end gives logits. Else the values tell, for these frames and for some
    noise of many sizes, so that no logits lie between 0 and 1 by chance.

    Raises:
        AttachError: several sigmoids (multi-label), one class alone, or no [n, classes] at all.
    """
    columns = _of_linear_layer(model, frames[:2])
    if columns is not None:
        return "one logit" if columns == 1 else "logits"
    with torch.no_grad():
        return _kind(_raw(model(cat([frames, *probes(frames)]))))


def _of_linear_layer(model: Model, frames: Frames) -> int | None:
    """Numbers of a row, where a linear layer made them.

    None where none did, or it cannot be told: how an output was made is known with its gradient
    only, and some models bear none.
    """
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that make numbers of what has a gradient
        try:
            x = frames_of(frames)
            bearing = x.detach().clone().requires_grad_() * 1 if x.is_floating_point() else x
            output = model(with_frames(frames, bearing))
        except (RuntimeError, TypeError):
            return None
    few = _raw(output)
    return few.shape[1] if _last_function(few) in LINEAR else None


def probes(frames: Frames) -> list[Frames]:
    """Noise of many sizes on one of the frames [n, ...]; token ids of the frames in any order."""
    generator = torch.Generator().manual_seed(0)
    x, beside = frames_of(frames), repeated(frames[:1], PROBES)
    shape = (PROBES, *x.shape[1:])
    if not x.is_floating_point():
        places = torch.randint(x.numel(), shape, generator=generator)
        return [with_frames(beside, x.flatten()[places])]
    noise = [size * torch.randn(shape, generator=generator) for size in SIZES]
    return [with_frames(beside, x[:1] + part.to(x)) for part in noise]


def _kind(y: Tensor) -> Outputs:
    y = y[y.isfinite().all(1)]  # what overflows on noise tells nothing
    bounded = len(y) > 0 and bool(((y >= 0) & (y <= 1)).all())
    sums_to_one = bounded and bool(((y.sum(1) - 1).abs() < SUM_TOLERANCE).all())
    if y.shape[1] == 1:
        if sums_to_one:
            raise AttachError(
                "model",
                "returns 1 for every frame: a softmax over one class says nothing",
                "Return the logit before it",
            )
        return "one probability" if bounded else "one logit"
    if sums_to_one:
        return "probabilities"
    if bounded:
        raise AttachError(
            "model",
            f"returns {y.shape[1]} numbers between 0 and 1 that do not sum to one: independent "
            "sigmoids of a multi-label model",
            "Name its task: edgemem export --task multilabel, or attach(..., task='multilabel')",
        )
    return "logits"


def only(output: object) -> object:
    """What an output object of transformers calls logits, or the one thing that others hold."""
    output = getattr(output, "logits", output)
    values = [*output.values()] if isinstance(output, Mapping) else output
    return values[0] if isinstance(values, (tuple, list)) and len(values) == 1 else output


def _raw(output: object) -> Tensor:
    """[n, classes], or [n, 1] for [n], of what a model returns."""
    tensor = only(output)
    if isinstance(tensor, Tensor) and tensor.dim() == 1:
        tensor = tensor[:, None]
    if not isinstance(tensor, Tensor) or tensor.dim() != 2 or not tensor.is_floating_point():
        kind = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise AttachError(
            "model", f"returns {kind}, not logits [n, classes]", "Return one row of logits a frame"
        )
    return tensor


def _two(logit: Tensor) -> Tensor:
    """[n, 1] -> [n, 2], with the same decision: the second class where the logit is above zero."""
    if logit.shape[1] != 1:
        raise AttachError("model", f"returns {logit.shape[1]} numbers a frame, not one", RECOGNISE)
    return torch.cat([torch.zeros_like(logit), logit], 1)


def _last_function(output: Tensor) -> str:
    """Name of the function that made a tensor, beneath functions that only change its shape."""
    node: Any = output.grad_fn
    while node is not None:
        name = str(node.name())
        if name not in SHAPE_ONLY or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


class BeforeSigmoid(TorchFunctionMode):
    """While active, notes what sigmoids are given, for a sigmoid near 1 does not tell any more."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[tuple[Tensor, Tensor]] = []  # what came out, what went in

    def of(self, output: Tensor) -> Tensor | None:
        """What the sigmoid that made `output` was given, in the shape of `output`."""
        return next((given for made, given in reversed(self._pairs) if made is output), None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        keywords = kwargs or {}
        given = None
        if func in SIGMOIDS and args:
            in_place = func in (torch.sigmoid_, Tensor.sigmoid_)
            given = args[0].clone() if in_place else args[0]
        elif func in VIEWS and args:
            before = self.of(args[0])
            given = None if before is None else func(before, *args[1:], **keywords)
        result = func(*args, **keywords)
        if given is not None:
            self._pairs.append((result, given))
        return result
