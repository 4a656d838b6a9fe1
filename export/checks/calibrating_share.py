"""How much surer than the frozen model a block has to be, found out on shifted source frames.

Which certainty is a sign of being right differs from network to network. What a network says of
source frames as they are is known to be right, or their labels are; so it can be seen, shift by
shift, which model is the better one, and how certain each of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgemem.block import Block
from edgemem.bundle.manifest import POSITIONS, Manifest
from edgemem.bundle.rows import frames_of, with_frames
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.tasks.answered_wrong import share_wrong
from edgemem.models.tasks.task_outputs import logit_rows
from edgemem.models.tensor_rows import source_rows, to_array

if TYPE_CHECKING:
    from edgemem.runtime.answers import Answers
    from edgemem.runtime.step.graphs import Graphs

MOST_FRAMES, WITH_POSITIONS = 128, 32  # of every shift
HARM = 1.0  # weight of what is lost on any of the shifts, beside the error
ALIKE, ALIKE_PART = 0.005, 0.05  # gains that are none: absolute, and as a part of the error
LEAST = 1e-3  # nats; certainty beyond it does not count


class BatchTrial(NamedTuple):
    """One batch under a shift. own, frozen: parts of wrong answers. ratio: of mean entropies.

    in_runs: of few classes, one after another; else its frames come in any order.
    """

    shift: int
    own: float
    frozen: float
    ratio: float
    in_runs: bool = False


@dataclass(frozen=True)
class ShareTrial:
    """What was found.

    Attributes:
        below: the limit; None = none is better than no limit.
        loss: error and harm together, with it.
        unlimited: the same without a limit.
        frozen: error of the frozen model.
    """

    below: float | None
    loss: float
    unlimited: float
    frozen: float


def limited(
    folder: Path, manifest: Manifest, model: AdaptiveModel, report: Callable[[str], None]
) -> Manifest:
    """The manifest of a written bundle, with how much surer its block has to be.

    It stays as it is for tasks without certainty, for token ids, which cannot be shifted, and with
    less than two batches of source frames.
    """
    frames, size = source_rows(model), manifest.frames.batch
    tells = manifest.task is None or manifest.task.knows_certainty
    known = frames is not None and len(frames) >= 2 * size
    aligns = "alpha" in manifest.hyper_parameters
    if not (tells and known and aligns) or manifest.frames.ids is not None:
        return manifest
    from edgemem.bundle.opening import open_bundle
    from edgemem.runtime.engines.choice import EngineSettings, choose
    from edgemem.runtime.step.graphs import Graphs

    report("comparing with the frozen model")
    bundle = open_bundle(folder)
    graphs = Graphs(bundle, choose(bundle, settings=EngineSettings(0)).backend)
    found = trial(list(_batches(graphs, bundle.generic, model, manifest)))
    told = manifest.exported_from | {"frozen_share": asdict(found)}
    return replace(manifest, surer_below=found.below, exported_from=told)


def trial(batches: Sequence[BatchTrial]) -> ShareTrial:
    """The limit under which the block answers, by which least is wrong and lost.

    What a limit gains in runs of a class may cost nothing where frames come in any order: there the
    frozen model is uncertain of what it gets wrong, and a block need not be much surer. Between two
    ratios every limit decides alike: the middle of the widest gap is taken.
    """
    loss, mixed = _loss(batches), _loss([b for b in batches if not b.in_runs])
    gaps = _gaps([b.ratio for b in batches])
    fair = min(map(mixed, [*gaps, np.inf])) + _alike([b for b in batches if not b.in_runs])
    losses = {limit: (loss(limit), -gap) for limit, gap in gaps.items() if mixed(limit) <= fair}
    unlimited, frozen = loss(np.inf), _frozen(batches)
    limit = min(losses, key=lambda limit: losses[limit], default=None)
    if limit is None or losses[limit][0] > unlimited - _alike(batches):
        return ShareTrial(None, unlimited, unlimited, frozen)
    return ShareTrial(limit, losses[limit][0], unlimited, frozen)


def _loss(batches: Sequence[BatchTrial]) -> Callable[[float], float]:
    """What is wrong and lost by a limit, mean over shifts."""
    by_shift: dict[int, list[BatchTrial]] = {}
    for batch in batches:
        by_shift.setdefault(batch.shift, []).append(batch)

    def loss(below: float) -> float:
        found = []
        for part in by_shift.values():
            error = float(np.mean([b.own if b.ratio < below else b.frozen for b in part]))
            found.append(error + HARM * max(0.0, error - float(np.mean([b.frozen for b in part]))))
        return round(float(np.mean(found)), 9)

    return loss


def _gaps(ratios: Sequence[float]) -> dict[float, float]:
    """Limits between two ratios, and how wide the gap is; the last one is below all."""
    logs = np.sort(np.log(ratios))
    gaps = {float(np.exp((a + b) / 2)): float(b - a) for a, b in pairwise(logs)}
    return gaps | {float(np.exp(logs[0] - 1.0)): 0.0}


def _frozen(batches: Sequence[BatchTrial]) -> float:
    """Error of the frozen model, mean over shifts."""
    return _loss(batches)(0.0)


def _alike(batches: Sequence[BatchTrial]) -> float:
    """A difference that is none."""
    return min(ALIKE, ALIKE_PART * _frozen(batches))


def _batches(
    graphs: Graphs, generic: Block, model: AdaptiveModel, manifest: Manifest
) -> Iterator[BatchTrial]:
    """Under no shift, and under each, in batches of a context that has just begun.

    Frames of classes come in any order, and also in runs of a class, for moments of few classes are
    not those of their context.
    """
    from edgemem.runtime.step.hyper_parameters import HyperParameters
    from edgemem.shifts import FURTHER

    known, size = source_rows(model), manifest.frames.batch
    assert known is not None
    most = WITH_POSITIONS if manifest.task and manifest.task.kind in POSITIONS else MOST_FRAMES
    count = max(2 * size, min(most, len(known)) // size * size)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(known))[:count]]
    if manifest.task is None:
        orders.append(in_runs(_right(graphs, known, model, manifest), count, size))
    shifts = [None, *FURTHER.values()]
    parameters = HyperParameters(manifest, {}).now()
    for turn, order in enumerate(orders):
        x = to_array(to_float(known[order]))
        right = np.split(_right(graphs, known, model, manifest, order), count // size)
        low, high = frames_of(x).min(), frames_of(x).max()
        for number, shift in enumerate(shifts, start=turn * len(shifts)):
            shifted = (
                x if shift is None else with_frames(x, shift(frames_of(x), rng).clip(low, high))
            )
            for part, truth in zip(np.split(shifted, count // size), right, strict=True):
                rows = graphs.predict(part, generic, parameters), graphs.frozen(part)
                tried = _tried(number, rows, truth, model, manifest)
                yield tried._replace(in_runs=turn > 0)


def in_runs(classes: NDArray[np.int64], count: int, size: int) -> NDArray[np.int64]:
    """Places of so many frames: batches of that size, in each of them as few classes as can be."""
    order = np.argsort(classes, kind="stable")
    starts = np.linspace(0, len(order) - size, count // size).astype(int)
    return np.concatenate([order[start : start + size] for start in starts])


def _right(
    graphs: Graphs,
    known: NDArray[Any],
    model: AdaptiveModel,
    manifest: Manifest,
    order: NDArray[np.int64] | slice = slice(None),
) -> NDArray[np.int64]:
    """The classes of source frames, of every position: labels, or what the frozen model says."""
    if manifest.task is None and model.source_labels is not None:
        return model.source_labels.numpy()[order]
    x, size = to_array(to_float(known[order])), manifest.frames.batch
    parts = [graphs.frozen(x[start : start + size]) for start in range(0, len(x), size)]
    return np.concatenate([_classes(rows, model, manifest) for rows in parts])


def _tried(
    number: int,
    rows: tuple[Answers, Answers],
    truth: NDArray[np.int64],
    model: AdaptiveModel,
    manifest: Manifest,
) -> BatchTrial:
    """What answers of the block and of the frozen model are worth."""
    from edgemem.runtime.answers import entropies_of

    task, size = model.attachment.task, manifest.frames.batch
    own, frozen = (share_wrong(task, _classes(r, model, manifest), truth, size) for r in rows)
    entropy = [max(float(entropies_of(r, manifest.task).mean()), LEAST) for r in rows]
    return BatchTrial(number, own, frozen, entropy[0] / entropy[1])


def _classes(rows: Answers, model: AdaptiveModel, manifest: Manifest) -> NDArray[np.int64]:
    """Of every frame, or of every position of it."""
    from edgemem.runtime.answers import outputs_of

    classes: NDArray[np.int64] = rows.argmax(1)
    if manifest.task is None:
        return classes
    own = model.attachment
    found = {name: torch.from_numpy(v) for name, v in outputs_of(rows, manifest).items()}
    classes = logit_rows(own.task, own.scale, found, own.named).argmax(1).numpy()
    return classes
