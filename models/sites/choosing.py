"""Which sites a network gains from, by trying sets of them on synthetic shifts of source frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemem.bundle.manifest import POSITIONS
from edgemem.errors import AttachError, EdgeMemError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import REMEMBERED_ALPHA, Normalization
from edgemem.models.data import to_float
from edgemem.models.inspection.untouched import twin_of
from edgemem.models.norms.frozen_norm import FrozenNorm
from edgemem.models.sites.candidates import Candidate, candidates
from edgemem.models.sites.identity_norm import IdentityNorm
from edgemem.models.sites.measuring import measure_source
from edgemem.models.tasks.answered_wrong import share_wrong
from edgemem.models.tasks.named_outputs import flat, flattened, named
from edgemem.models.tasks.task_outputs import AUTO, Task
from edgemem.models.tensor_rows import Frames, call, frames_of, others_of, split, with_frames
from edgemem.shifts import SHIFTS

TRIED = 128  # frames of every shift
WITH_POSITIONS = 16  # of tasks that answer at many positions of each
# Losses that differ by less count as the same: the fewer sites are taken. The second is a part of
# the frozen model's, for tasks where most positions are easy.
ALIKE, ALIKE_PART = 0.005, 0.05
SMALLER_ALPHAS = (0.5, 0.25)
NOT_AT_ALL = 0.0
SURE = ("classes", *POSITIONS)  # tasks of which a device can tell which model is surer
HARM = 1.0  # weight of what is lost on any of the shifts, beside the error
CLEAN = "clean"


@dataclass(frozen=True)
class ChosenSites:
    """What was found.

    Attributes:
        names: of the sites; empty where the network's own BatchNorms are enough.
        alpha: weight of the target's statistics that did best; 0 = aligning gains nothing.
        frozen, error: shares of wrong answers over the shifts, without alignment and with it; of
            tasks without classes, distances.
        harm: how much of the error is lost on shifts where the frozen model does better.
        tried: set of sites -> how many, and its error and harm together, by which sets are chosen;
            empty where nothing could be tried. Of sets that are worse, what it is at least.
    """

    names: tuple[str, ...]
    alpha: float
    frozen: float
    error: float
    harm: float
    tried: Mapping[str, tuple[int, float]]


def choose_sites(
    model: nn.Module,
    frames: NDArray[Any],
    labels: NDArray[np.int64] | None = None,
    *,
    normalization: Normalization | None = None,
    task: Task | Literal["auto"] = AUTO,
    batch: int = 16,
    note: Callable[[str], None] = lambda text: None,
) -> ChosenSites:
    """Try sets of sites on shifts of source frames [n, ...], in batches of so many.

    Answers are compared with labels [n], or, without them, with what the model says of the frames
    before they were shifted: by the class at every position, or else by their distance in units of
    what they vary by. What a set loses on one shift is not made up for by what it gains on another:
    it counts twice. note: is given the name of each set.

    What comes beside the frames is not shifted. Token ids cannot be: of their models the norms are
    taken, untried.

    Raises:
        AttachError: nothing of the model can be aligned, or see `attach`.
        InputError: too few frames.
    """
    every = np.random.default_rng(0).permutation(len(frames))
    example = to_float(frames[np.sort(every[:batch])])
    known = _known(model, example, normalization)
    names = [site.name for site in known]
    if not names and not any("running_mean" in name for name, _ in model.named_buffers()):
        raise AttachError(
            f"model {type(model).__name__}",
            "has no layer behind which moments can be aligned: one that runs once and gives one "
            "tensor frame by frame, which the answer depends on",
            "Name --parts for meta networks and run edgemem warmup, or put a BatchNorm before the "
            "layer that answers",
        )
    if not frames_of(example).is_floating_point():
        note("sites: norms, untried, for token ids cannot be shifted")
        names = [site.name for site in known if site.kind == "norm"] or names
        return ChosenSites(tuple(names), REMEMBERED_ALPHA, 0.0, 0.0, 0.0, {})
    adaptive = attach(
        model,
        [],
        frames_of(example),
        statistics="mix",
        normalization=normalization,
        sites=names,
        task=task,
        inputs=others_of(example),
    )
    measure_source(adaptive, frames)
    most = WITH_POSITIONS if adaptive.attachment.task in ("dense", "sequence") else TRIED
    tried = np.sort(every[: max(batch, most // batch * batch)])
    trial = _Trial(adaptive, to_float(frames[tried]), batch, labels=labels, places=tried)
    frozen = float(trial.frozen.mean())
    alike = min(ALIKE, ALIKE_PART * frozen)
    found: dict[str, tuple[tuple[str, ...], float]] = {}

    def try_set(title: str, chosen: Sequence[str]) -> None:
        note(f"sites: {title}")
        least = min((loss for _, loss in found.values()), default=math.inf)
        found[title] = tuple(chosen), trial.loss(chosen, REMEMBERED_ALPHA, least + alike)

    for title, chosen in _first_sets(known, adaptive):
        try_set(title, chosen)
    best = min(found, key=lambda title: found[title][1])
    for title, chosen in _thinned(best, found[best][0]):
        try_set(title, chosen)
    least = min(loss for _, loss in found.values())
    title = min(
        (title for title, (_, loss) in found.items() if loss <= least + alike),
        key=lambda title: len(found[title][0]),
    )
    chosen, loss = found[title]
    losses = {REMEMBERED_ALPHA: loss}
    for smaller in SMALLER_ALPHAS:
        losses[smaller] = trial.loss(chosen, smaller, min(losses.values()) + alike)
    if adaptive.attachment.task not in SURE:
        losses[NOT_AT_ALL] = frozen
    alpha = settled_alpha(losses, alike, adaptive.attachment.task)
    table = {title: (len(sites), loss) for title, (sites, loss) in found.items()}
    error = frozen if alpha == NOT_AT_ALL else trial.error(chosen, alpha)
    harm = (losses[alpha] - error) / HARM
    return ChosenSites(chosen, alpha, frozen, error, harm, table)


def settled_alpha(losses: Mapping[float, float], alike: float, task: Task) -> float:
    """The weight of the target's statistics to take, by the losses of each.

    Where classes exclude each other a device tells by certainty when the frozen model is the better
    one. Nothing tells it elsewhere, so the smallest weight is taken that is as good as any.
    """
    if task == "classes":
        best = min(losses, key=lambda alpha: losses[alpha])
        usual = losses[REMEMBERED_ALPHA]
        return best if losses[best] < usual - alike else REMEMBERED_ALPHA
    least = min(losses.values())
    return min(alpha for alpha, loss in losses.items() if loss <= least + alike)


def _known(
    model: nn.Module, example: Frames, normalization: Normalization | None
) -> list[Candidate]:
    twin = twin_of(model).eval()

    def answer(given: Frames) -> list[Tensor]:
        if normalization is not None:
            given = with_frames(given, normalization.applied(frames_of(given)))
        return list(named(call(twin, given)).values())

    try:
        return candidates(twin, answer, example)
    except EdgeMemError:
        raise
    except Exception as error:  # the user's own model
        raise AttachError(
            f"source frames {list(example.shape)}",
            f"the model refuses them ({error})",
            "Pass frames of the shape the model was trained on",
        ) from error


def _first_sets(
    known: Sequence[Candidate], model: AdaptiveModel
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Kinds of layers, alone and together. BatchNorms are always there: they cost nothing."""
    own = sum(isinstance(module, FrozenNorm) for module in model.modules())
    kinds = dict.fromkeys(site.kind for site in known)
    of = {kind: tuple(s.name for s in known if s.kind == kind) for kind in kinds}
    if own:
        yield "BatchNorms alone", ()
    if own and 2 * own >= len(of.get("convolution", ())):  # these are aligned by them
        of = {kind: sites for kind, sites in of.items() if kind == "norm"}
    for kind, sites in of.items():
        yield f"{kind}s", sites
    if "norm" in of and "convolution" in of:
        yield "convolutions and norms", (*of["convolution"], *of["norm"])
    if len(of) > 2 or set(of) == {"linear", "norm"}:
        yield "all", tuple(site for sites in of.values() for site in sites)


def _thinned(title: str, sites: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for share in (2, 4):
        if len(sites) >= 2 * share:
            yield f"{title}, one of {share}", tuple(sites[::share])
    if len(sites) >= 4:
        yield f"{title}, first half", tuple(sites[: len(sites) // 2])


class _Trial:
    """Shifted frames, and what is right for them."""

    def __init__(
        self,
        model: AdaptiveModel,
        given: Frames,
        batch: int,
        *,
        labels: NDArray[np.int64] | None,
        places: NDArray[np.int64],
    ) -> None:
        self.model, self.batch = model, batch
        rng = np.random.default_rng(0)
        frames = frames_of(given).numpy()
        self.shifted = {CLEAN: given} | {
            name: with_frames(given, torch.from_numpy(shift(frames, rng)))
            for name, shift in SHIFTS.items()
        }
        if labels is None or not model.classes:
            self.right = self._answers(given, None)
        else:
            self.right = torch.from_numpy(labels[places])
        self._errors: dict[tuple[tuple[str, ...], float], float] = {}
        self.frozen = torch.stack(list(self._under_shifts((), None)))

    def loss(self, sites: Sequence[str], alpha: float, most: float = math.inf) -> float:
        """Mean of the errors, and of what is lost where the frozen model does better.

        As soon as it is above `most`, only what it is at least.
        """
        errors, loss = list[float](), 0.0
        for wrong, frozen in zip(self._under_shifts(sites, alpha), self.frozen, strict=True):
            lost = float((wrong + HARM * (wrong - frozen).clamp(min=0.0)) / len(self.frozen))
            errors, loss = [*errors, float(wrong)], loss + lost
            if loss > most:
                return loss
        self._errors[tuple(sites), alpha] = float(np.mean(errors))
        return loss

    def error(self, sites: Sequence[str], alpha: float) -> float:
        """Mean share of wrong answers of a set that is not worse than others."""
        return self._errors[tuple(sites), alpha]

    def _under_shifts(self, sites: Sequence[str], alpha: float | None) -> Iterator[Tensor]:
        """Share of wrong answers under every shift, with these sites active."""
        keys = {name.replace(".", "/") for name in sites}
        for key, norm in self.model.sites.items():
            assert isinstance(norm, IdentityNorm)
            norm.active = key in keys
        for x in self.shifted.values():
            yield self._wrong(self._answers(x, alpha))

    def _wrong(self, found: Tensor) -> Tensor:
        """Share of what differs, or a distance, one at most."""
        if not found.is_floating_point():
            task, frames = self.model.attachment.task, len(self.shifted[CLEAN])
            return torch.tensor(share_wrong(task, found.numpy(), self.right.numpy(), frames))
        spread = (self.right - self.right.mean(0)).square().sum(1).mean().sqrt()
        away = (found - self.right).square().sum(1).sqrt() / spread.clamp(min=1e-12)
        return away.clamp(max=1.0).mean()

    def _answers(self, x: Frames, alpha: float | None) -> Tensor:
        """Classes at all positions; of tasks without classes all numbers of each frame.

        Of a reconstruction what it misses: it is right where it gives the shift back, too.
        """
        weight = None if alpha is None else torch.tensor(alpha)
        own = self.model.attachment
        with torch.no_grad():
            outputs = [self.model(part, weight) for part in split(x, self.batch)]
        if own.task in SURE:
            return torch.cat([output.logits for output in outputs]).argmax(1)
        if own.task == "reconstruction":
            made = torch.cat([output.named[own.named[0].name] for output in outputs])
            return flattened(made - frames_of(own.normalized(x)))
        return torch.cat([flat(output.named, own.named) for output in outputs])
