"""A trial pass through the model that was given: which norms run in it, and which layer answers.

What a layer is called or where it is declared says nothing about when it runs. So the model is run
on a few frames, and its calls are looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.inspection.untouched import draws_random
from edgemem.models.inspection.watched_pass import Pass, Run, watched_pass
from edgemem.models.tensor_rows import Frames, TensorRows, frames_of, repeated, with_frames

FRAMES = 3
CHANGED = 1  # the frame of those that is exchanged
SAME = 1e-3  # relative: above it, a value is another one


@dataclass(frozen=True)
class NormUse:
    """How one norm is used. runs: how often in a pass. within: only as a module.

    Attributes:
        rows: of its input for each frame, one frame after another; None where rows are not so.
    """

    layer: nn.Module
    of_batch: bool
    runs: int
    within: bool
    eps: float
    rows: int | None


@dataclass(frozen=True)
class Trial:
    """What a trial pass found of a model.

    Attributes:
        norms: those on which the answer depends, in order of their first run.
        classifier: the linear layer that answers, if there is one.
        rows: of the watched modules, as in `NormUse`.
    """

    norms: tuple[NormUse, ...]
    classifier: nn.Linear | None
    classes: int
    rows: Mapping[nn.Module, int | None]


def trial_frames(given: Frames) -> Frames:
    """Frames like the example's: random, between its least and its largest value, or 0 and 1.

    Token ids are those of the example in any order. What comes beside the frames is the example's.
    """
    beside, example = repeated(given, FRAMES), frames_of(given)
    generator = torch.Generator().manual_seed(0)
    shape = (FRAMES, *example.shape[1:])
    if not example.is_floating_point():
        places = torch.randint(example.numel(), shape, generator=generator)
        return with_frames(beside, example.flatten()[places])
    low, high = float(example.min()), float(example.max())
    if not high > low:
        low, high = 0.0, 1.0
    x = (low + (high - low) * torch.rand(shape, generator=generator)).to(example)
    return with_frames(beside, x)


def other_frames(given: Frames) -> Frames:
    """Trial frames of which one is exchanged, with what belongs to it."""
    if isinstance(given, TensorRows):
        places = [0 if place == CHANGED else place for place in range(FRAMES)]
        return with_frames(given[places], frames_of(other_frames(given.x)))
    other = given.clone()
    turned = given[0].flip(-1)
    other[CHANGED] = 0.5 * turned if given.is_floating_point() else turned
    return other


def try_out(
    network: nn.Module,
    answer: Callable[[Frames], Tensor],
    example: Frames,
    watched: Iterable[nn.Module] = (),
) -> Trial:
    """Run a network on a few frames; it is left as it was.

    answer: frames -> logits [n, classes], by that network. watched: modules whose rows are asked.

    Raises:
        AttachError: a norm without source statistics, or answers that depend on other frames.
    """
    x = trial_frames(example)
    watched = list(watched)
    first = _first_pass(network, lambda: answer(x), watched)
    with torch.no_grad():
        other = other_frames(x)
        second = watched_pass(network, lambda: answer(other), watched)
    if not _alone(first.logits, second.logits):
        with torch.no_grad():
            again = answer(x)
        raise _mixing(network, random=_changed_rows(first.logits, again) != [])
    needed = _needed(network, lambda: answer(x), first)
    pairs = [
        (a, rows_of_frame(a.x, b.x))
        for number, (a, b) in enumerate(zip(first.runs, second.runs, strict=True))
        if number in needed
    ]
    layers = dict.fromkeys(run.layer for run, _ in pairs)
    uses = [_use([(r, rows) for r, rows in pairs if r.layer is layer]) for layer in layers]
    rows = {
        m: rows_of_frame(first.inputs[m], second.inputs[m]) for m in watched if m in first.inputs
    }
    return Trial(tuple(uses), _classifier(first), first.logits.shape[1], rows)


def _first_pass(
    network: nn.Module, answer: Callable[[], Tensor], watched: Iterable[nn.Module]
) -> Pass:
    """With gradients, where the network bears them: some turn tensors into numbers."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            return watched_pass(network, answer, watched)
        except (RuntimeError, TypeError):
            with torch.no_grad():
                return watched_pass(network, answer, watched)


def _use(runs: list[tuple[Run, int | None]]) -> NormUse:
    first, rows = runs[0]
    same = rows if all(other == rows for _, other in runs) else None
    within = all(run.within for run, _ in runs)
    return NormUse(first.layer, first.of_batch, len(runs), within, first.eps, same)


def _changed_rows(first: Tensor, second: Tensor) -> list[int] | None:
    """Rows that differ, where both are finite; None where the shapes do."""
    if first.shape != second.shape:
        return None
    off = (first - second).detach().abs()
    limit = SAME * float(first.detach().abs().nan_to_num(posinf=0.0).max().clamp(min=1e-6))
    different = (off > limit) & off.isfinite()
    return torch.nonzero(different.flatten(1).any(1)).flatten().tolist()


def rows_of_frame(first: Tensor, second: Tensor) -> int | None:
    """TensorRows of one frame, where the exchanged frame has changed rows of its own alone."""
    rows, rest = divmod(len(first), FRAMES)
    changed = _changed_rows(first, second)
    own = range(CHANGED * rows, (CHANGED + 1) * rows)
    return rows if rest == 0 and changed is not None and set(changed) <= set(own) else None


def _alone(first: Tensor, second: Tensor) -> bool:
    """Whether no answer but that to the exchanged frame has changed."""
    changed = _changed_rows(first, second)
    return changed is not None and set(changed) <= {CHANGED}


def _mixing(network: nn.Module, *, random: bool) -> AttachError:
    name = f"model {type(network).__name__}"
    if random:
        return draws_random(name)
    return AttachError(
        name,
        "answers a frame otherwise beside other frames, so it has no answer of its own to keep",
        "Use a model that takes each frame alone in eval mode",
    )


def _needed(network: nn.Module, answer: Callable[[], Tensor], seen: Pass) -> set[int]:
    """Numbers of the runs on which the answer depends: by a gradient, or else by trying."""
    gates = [run.gate for run in seen.runs]
    found: tuple[Tensor | None, ...] = tuple(None for _ in gates)
    if gates and seen.logits.requires_grad:
        found = torch.autograd.grad(seen.logits.sum(), gates, allow_unused=True)
    needed = {number for number, slope in enumerate(found) if slope is not None}
    for number in set(range(len(gates))) - needed:
        with torch.no_grad():
            other = watched_pass(network, answer, [], silenced=number)
        if _changed_rows(seen.logits, other.logits) != []:
            needed.add(number)
    return needed


def _classifier(seen: Pass) -> nn.Linear | None:
    """Of the linear layers that answer so many classes, the one whose output is the answer.

    Only those count that run once in a pass; where no output is the answer, the last one that ran.
    """
    shape = seen.logits.shape
    layers = [layer for layer, _ in seen.linear]
    fitting = [(m, y) for m, y in seen.linear if y.shape == shape and layers.count(m) == 1]
    exact = [m for m, y in fitting if y.equal(seen.logits)]
    found = exact or [m for m, _ in fitting]
    return found[-1] if found else None
