"""Which learning rate does a network no harm? Found out at export, by its own source frames.

Steps follow the network's own predictions. One that is right on most frames gains by them; one that
is often wrong, and certain of it, learns its mistakes. So streams of source frames with synthetic
shifts are run with the default rate, with parts of it, and without steps; the largest rate that
gains something is taken, else none.

First of all it is asked who answers frames that are like the source's. That is the frozen model,
unless its own statistics are so far from what it sees that the block without steps is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgemem.bundle.opening import Bundle
from edgemem.bundle.rows import frames_of, inputs_of
from edgemem.errors import InputError
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.loop import Runtime
from edgemem.runtime.tools.tuning import Choice, SourceFrames, answers_of, mean_over_orders

RATE = "learning_rate"
FACTORS = (1.0, 0.3, 0.1)  # of the default, tried one after another
PLAINLY = 0.05  # in accuracy
LEAST_GAIN, DEVIATIONS = 0.001, 2.0  # in accuracy over no step, and of chance in it
MOST_LOSS = 0.005  # over the shifts of any one order of labels
MOST_DRAWS = 3  # of frames, as long as a gain may be chance or not
Answers = dict[str, NDArray[np.bool_]]  # whether each is right, by segment


@dataclass(frozen=True)
class RateTrial:
    """One rate beside no step, on the same frames.

    Attributes:
        gain: in accuracy, mean over orders of labels.
        deviation: of chance in it.
        orders: gain by order.
    """

    rate: float
    gain: float
    deviation: float
    orders: dict[str, float] = field(default_factory=dict)

    @property
    def may_help(self) -> bool:
        """Whether more frames may show a gain that these leave open."""
        return not self.helps and self.gain >= max(LEAST_GAIN, self.deviation)

    @property
    def helps(self) -> bool:
        """Whether steps gain something, and lose nothing that matters anywhere."""
        least = max(LEAST_GAIN, DEVIATIONS * self.deviation)
        return self.gain >= least and min(self.orders.values()) >= -MOST_LOSS


@dataclass(frozen=True)
class SourceAccuracies:
    """Accuracies on source frames in random order.

    Of the frozen model and of the block without steps.
    """

    frozen: float
    without_steps: float

    @property
    def frozen_answers(self) -> bool:
        """Whether the frozen model is not plainly the worse."""
        return self.without_steps - self.frozen < PLAINLY


@dataclass(frozen=True)
class Calibration:
    """The learning rate that source frames allow.

    Attributes:
        rate: the one to use; 0 = steps do harm.
        trials: what led there.
        frames: of every shift, in each draw.
    """

    rate: float
    trials: tuple[RateTrial, ...]
    frames: int


def compare_at_home(
    bundle: Bundle, source: SourceFrames, *, seed: int = 0, threads: int = 0
) -> SourceAccuracies:
    """How frozen model and block do on labelled source frames, each frame once."""
    backend = choose(bundle, settings=EngineSettings(threads)).backend
    order = np.random.default_rng(seed).permutation(len(source.y))
    x, y, size = source.x[order], source.y[order], bundle.manifest.frames.batch
    alone = replace(bundle, manifest=replace(bundle.manifest, familiar=False))
    still = {RATE: 0.0} if RATE in bundle.manifest.hyper_parameters else {}
    with Runtime(alone, backend, hyper_parameters=still) as runtime:
        parts = [x[i : i + size] for i in range(0, len(x), size)]
        given = [(frames_of(part), inputs_of(part)) for part in parts]
        frozen = [runtime.predict(x, inputs=others, frozen=True).labels for x, others in given]
        own = [runtime.step(x, inputs=others).labels for x, others in given]
    right = [float((np.concatenate(labels) == y).mean()) for labels in (frozen, own)]
    return SourceAccuracies(*right)


def calibrate(
    bundle: Bundle,
    source: SourceFrames,
    *,
    frames: int = 256,
    seed: int = 0,
    threads: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Choose the learning rate of a bundle.

    Args:
        bundle: an opened one.
        source: labelled source frames.
        frames: of every shift, in each order of labels.
        seed: of draws and shifts.
        threads: of the engine; 0 = all cores.
        note: called after every trial.

    Raises:
        InputError: the bundle has no learning rate.
    """
    known = bundle.manifest.hyper_parameters.get(RATE)
    if known is None:
        raise InputError(bundle.manifest.name, "has no learning rate", "Export it with a step")
    backend = choose(bundle, settings=EngineSettings(threads)).backend

    draws: list[Answers] = []

    def right(rate: float, draw: int) -> Answers:
        choice = Choice({RATE: rate}, bundle.manifest.adapt_when)
        found = answers_of(bundle, source, choice, frames, seed + draw, backend)
        return {f"{name},{draw}": answers for name, answers in found.items()}

    def tried(rate: float) -> RateTrial:
        found: Answers = {}
        for draw in range(MOST_DRAWS):
            if draw == len(draws):
                draws.append(right(0.0, draw))
            found |= right(rate, draw)
            without = {name: a for held in draws[: draw + 1] for name, a in held.items()}
            trial = _compared(rate, found, without)
            if not trial.may_help:
                break
        return trial

    trials = list[RateTrial]()
    for factor in FACTORS:
        trial = tried(factor * known.default)
        trials.append(trial)
        note(f"rate {trial.rate:g}: {100 * trial.gain:+.1f} points")
        if trial.helps:
            return Calibration(trial.rate, tuple(trials), frames)
    return Calibration(0.0, tuple(trials), frames)


def _compared(rate: float, found: Answers, without: Answers) -> RateTrial:
    gains = {name: float(found[name].mean() - without[name].mean()) for name in found}
    changed = np.concatenate([found[name] != without[name] for name in found])
    orders = mean_over_orders(gains)
    deviation = math.sqrt(float(changed.mean()) / changed.size)
    return RateTrial(rate, float(np.mean(list(orders.values()))), deviation, orders)
