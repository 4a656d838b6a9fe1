"""Choosing hyper-parameters for the user, from labelled source frames and synthetic shifts alone.

One after another, each hyper-parameter takes the value that does best on streams of shifted source
frames. Fresh draws then decide whether the whole is taken: it must be no worse than the bundle's
own values, on frames without a shift, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle.opening import Bundle
from edgemem.bundle.rows import frames_of, inputs_of, with_frames
from edgemem.errors import InputError
from edgemem.printable import shown
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.frames import checked
from edgemem.runtime.loop import Runtime
from edgemem.runtime.tools.stream import Stream
from edgemem.shifts import SHIFTS

# Factors of the bundle's own values.
FACTORS = {
    "learning_rate": (0.1, 0.3, 3.0, 10.0),
    "entropy_margin": (0.5, 1.5),
    "regularization_weight": (0.25, 4.0),
    "alpha": (0.5, 1.5),
}
LARGEST = {"alpha": 1.0}
# Values in place of factors where the bundle's own is zero: export left it so, for steps do harm.
FROM_ZERO = {"learning_rate": (1e-5, 3e-5, 1e-4, 3e-4)}
EVERY = (3, 10)  # batches, of which the step runs on one
GAIN = 0.002  # least gain in error for which a value is changed
TOLERANCE = 0.003  # most that a rarer step may lose; frames without a shift: two deviations more
CLEAN = "clean"
MOST_BYTES = 1 << 30  # of source frames in memory
MOST_FRAMES = 1 << 16  # of every shift
Note = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """What is chosen. parameters: only those that differ from the bundle's."""

    parameters: Mapping[str, float] = field(default_factory=dict)
    adapt_when: int = 1


@dataclass(frozen=True)
class Errors:
    """Errors of one choice: mean over orders, and by labels and shift.

    On frames without a shift with the standard error.
    """

    all: float
    clean: float
    clean_deviation: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and how well it does.

    Attributes:
        before: errors of the bundle's own values and of the choice, on draws that did not choose
            it.
        after: errors of the bundle's own values and of the choice, on draws that did not choose it.
        trials: how many choices were tried.
    """

    choice: Choice
    before: Errors
    after: Errors
    trials: int


@dataclass(frozen=True, eq=False)
class SourceFrames:
    """Labelled source frames in memory. x: [n, ...] as the graphs take them. y: [n]."""

    x: Array
    y: NDArray[np.int64]

    @staticmethod
    def read(path: Path, bundle: Bundle) -> SourceFrames:
        """From an .npz file.

        Raises:
            InputError: a bundle without classes, no labels, labels that the bundle has no class
                for, frames that do not fit, fewer than two batches, or more than memory should
                hold.
        """
        stream, manifest = Stream(path), bundle.manifest
        if manifest.task is not None:
            reason = f"tells no classes apart (task {manifest.task.kind}), by which tuning goes"
            raise InputError(f"bundle {manifest.name!r}", reason, "Set hyper-parameters yourself")
        if stream.labels is None:
            raise InputError(str(path), "has no labels", "Save the classes as y beside x")
        stream.require_labels(len(manifest.labels))
        stream.require_shape(manifest.frames)
        if (size := stream.frames * math.prod(stream.shape) * 4) > MOST_BYTES:
            reason = f"takes {size:,} bytes, and {MOST_BYTES:,} are allowed"
            raise InputError(str(path), reason, "Use some hundred frames of every class")
        if stream.frames < 2 * manifest.frames.batch:
            reason = f"has {stream.frames} frames, fewer than two batches"
            raise InputError(str(path), reason, "Use some hundred source frames")
        parts = [
            checked(frames_of(part), manifest.frames, inputs_of(part))
            for _, part in stream.chunks(256)
        ]
        return SourceFrames(np.concatenate(parts), stream.labels)

    def streams(self, frames: int, seed: int) -> Iterator[tuple[str, Array, NDArray[np.int64]]]:
        """Name, frames and labels of each segment.

        Shift by shift, with labels in random order and in runs; then all shifts mixed, where a step
        that is too bold runs away.
        """
        rng = np.random.default_rng(seed)
        for order in ("random", "runs"):
            for name in (CLEAN, *rng.permutation(list(SHIFTS))):
                chosen = rng.permutation(len(self.y))[:frames]
                if order == "runs":
                    chosen = chosen[np.argsort(rng.permutation(self.y.max() + 1)[self.y[chosen]])]
                yield f"{order}, {name}", self._shifted(name, chosen, rng), self.y[chosen]
        chosen = rng.choice(len(self.y), frames * (1 + len(SHIFTS)))
        parts = np.array_split(chosen, 1 + len(SHIFTS))
        shifted = [
            self._shifted(n, part, rng) for n, part in zip((CLEAN, *SHIFTS), parts, strict=True)
        ]
        order_of = rng.permutation(len(chosen))
        yield "mixed, all", np.concatenate(shifted)[order_of], self.y[chosen][order_of]

    def _shifted(self, name: str, chosen: NDArray[np.int64], rng: np.random.Generator) -> Array:
        rows, known = self.x[chosen], frames_of(self.x)
        if name == CLEAN:
            return rows
        x = np.clip(SHIFTS[name](frames_of(rows), rng), known.min(), known.max())
        return with_frames(rows, x)


def trials_needed(bundle: Bundle) -> int:
    """How many choices a tuning tries."""
    return 3 + sum(map(len, _candidates(bundle))) + len(_rarer(bundle))


def tune(
    bundle: Bundle,
    source: SourceFrames,
    *,
    frames: int = 256,
    seed: int = 0,
    threads: int = 0,
    note: Note = lambda text: None,
) -> Tuned:
    """Choose hyper-parameters, and on how many batches the step runs.

    Args:
        bundle: an opened one.
        source: labelled source frames.
        frames: of every shift, in each order of labels.
        seed: of draws and shifts.
        threads: of the engine; 0 = all cores.
        note: called after every trial.

    Raises:
        InputError: the bundle does not adapt, or a number that makes no sense.
    """
    _require_possible(bundle, frames, seed)
    backend = choose(bundle, settings=EngineSettings(threads)).backend

    def error(choice: Choice, draw: int) -> Errors:
        found = errors_of(bundle, source, choice, frames, seed + draw, backend)
        note(f"error {100 * found.all:.1f} %")
        return found

    own = Choice(adapt_when=bundle.manifest.adapt_when)
    choice, best, trials = own, error(own, 0), 1
    for candidates in _candidates(bundle):
        others = [
            replace(choice, parameters={**choice.parameters, name: value})
            for name, value in candidates
        ]
        tried = [(error(other, 0), other) for other in others]
        trials += len(tried)
        errors, other = min(tried, key=lambda pair: pair[0].all)
        if errors.all <= best.all - GAIN and _keeps_clean(errors, best):
            choice, best = other, errors
    for every in _rarer(bundle):
        rarer = Choice(choice.parameters, every)
        trials += 1
        if error(rarer, 0).all <= best.all + TOLERANCE:
            choice = rarer
    before, after = error(own, 1), error(choice, 1)
    slack = TOLERANCE if choice.adapt_when > own.adapt_when else 0.0
    if after.all > before.all + slack or not _keeps_clean(after, before):
        choice, after = own, before
    return Tuned(choice, before, after, trials + 2)


def _require_possible(bundle: Bundle, frames: int, seed: int) -> None:
    if bundle.manifest.frames.ids is not None:
        raise InputError(
            bundle.manifest.name,
            "takes token ids, which no synthetic shift can be made of",
            "Set hyper-parameters yourself",
        )
    if not 1 <= frames <= MOST_FRAMES:
        thing = f"{shown(frames)} frames of every shift"
        raise InputError(thing, "are not possible", f"Use 1 to {MOST_FRAMES}")
    if seed < 0:
        raise InputError(f"seed {shown(seed)}", "is negative", "Use 0 or more")
    if "adapt" not in bundle.manifest.graphs:
        raise InputError(bundle.manifest.name, "does not adapt", "Export it with a step")


def errors_of(
    bundle: Bundle, source: SourceFrames, choice: Choice, frames: int, seed: int, backend: Backend
) -> Errors:
    """Errors of a choice on one draw."""
    right = answers_of(bundle, source, choice, frames, seed, backend)
    parts = {name: 1.0 - float(found.mean()) for name, found in right.items()}
    clean = [error for name, error in parts.items() if name.endswith(CLEAN)]
    mean, seen = float(np.mean(clean)), len(clean) * min(frames, len(source.y))
    deviation = (mean * (1 - mean) / seen) ** 0.5
    return Errors(float(np.mean(list(mean_over_orders(parts).values()))), mean, deviation, parts)


def answers_of(
    bundle: Bundle, source: SourceFrames, choice: Choice, frames: int, seed: int, backend: Backend
) -> dict[str, NDArray[np.bool_]]:
    """Whether each answer to one draw is right, segment by segment."""
    batch, right = bundle.manifest.frames.batch, {}
    with Runtime(
        bundle,
        backend,
        adapt_when=choice.adapt_when,
        hyper_parameters=choice.parameters,
    ) as runtime:
        for name, x, y in source.streams(frames, seed):
            parts = [x[i : i + batch] for i in range(0, len(x), batch)]
            found = [runtime.step(frames_of(part), inputs=inputs_of(part)).labels for part in parts]
            right[name] = np.concatenate(found) == y
    return right


def mean_over_orders(parts: Mapping[str, float]) -> dict[str, float]:
    """Of figures by segment, the mean for each order of labels."""
    by_order: dict[str, list[float]] = {}
    for name, figure in parts.items():
        by_order.setdefault(name.partition(",")[0], []).append(figure)
    return {order: float(np.mean(figures)) for order, figures in by_order.items()}


def _rarer(bundle: Bundle) -> list[int]:
    """Steps on fewer batches than the bundle's own."""
    return [every for every in EVERY if every > bundle.manifest.adapt_when]


def _keeps_clean(errors: Errors, before: Errors) -> bool:
    """Whether frames without a shift are predicted as well as before, as far as can be told."""
    deviation = math.hypot(errors.clean_deviation, before.clean_deviation)
    return errors.clean <= before.clean + TOLERANCE + 2 * deviation


def _candidates(bundle: Bundle) -> Iterator[list[tuple[str, float]]]:
    """Other values, hyper-parameter by hyper-parameter; for some that are zero there are none."""
    for name, factors in FACTORS.items():
        known = bundle.manifest.hyper_parameters.get(name)
        if known is None:
            continue
        own, most = known.default, LARGEST.get(name, np.inf)
        values = [factor * own for factor in factors] if own else FROM_ZERO.get(name, ())
        if values:
            yield [(name, min(value, most)) for value in values]
