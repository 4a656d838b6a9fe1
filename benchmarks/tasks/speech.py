"""Spoken digits for an LSTM without any norm: other speakers, other microphones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import signal

from benchmarks.ocr.shifts import CLEAN
from benchmarks.shared.speech import RATE, features
from benchmarks.tasks import measures, networks
from benchmarks.tasks.studies import Study

SPEAKER = "george"  # whom the network never hears in training
TEST_TAKES = 5  # of a digit and speaker, of fifty
Frames = NDArray[np.float32]
Labels = NDArray[np.int64]


class Recordings:
    """Free spoken digit dataset, 8 kHz, in a fixed random order."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "fsdd" / "fsdd.npz") as held:
            ends = list(pairwise(held["offsets"]))
            own = held["speaker"] == list(held["speakers"]).index(SPEAKER)
            test, digits = held["index"] < TEST_TAKES, held["digit"].astype(np.int64)
            audio = held["audio"] / 32768
        order = np.random.default_rng(0).permutation(len(ends))
        self._audio = [audio[slice(*ends[k])] for k in order]
        self._digits, self._own, self._test = digits[order], own[order], test[order]
        train = self._heard(~self._own & ~self._test)
        self._mean, self._deviation = train.mean(), train.std()

    def _heard(self, which: NDArray[np.bool_], change: Any = lambda sound: sound) -> Frames:
        return np.stack([features(change(self._audio[k])) for k in np.flatnonzero(which)])

    def _pair(self, which: NDArray[np.bool_], change: Any = lambda x: x) -> tuple[Frames, Labels]:
        heard = (self._heard(which, change) - self._mean) / self._deviation
        return heard.astype(np.float32), self._digits[which]

    def training(self, count: int) -> tuple[Frames, Labels]:
        """Of the other speakers."""
        frames, digits = self._pair(~self._own & ~self._test)
        return frames[:count], digits[:count]

    def conditions(self, count: int) -> Mapping[str, tuple[Frames, Labels]]:
        """Test recordings of the others as they are and as other microphones hear them; the unseen
        speaker."""
        rng = np.random.default_rng(0)
        low = signal.butter(2, 900, fs=RATE, output="sos")
        changes = {
            CLEAN: lambda x: x,
            "noise": lambda x: x + rng.normal(0, 0.3 * x.std(), len(x)),
            "hum": lambda x: x + 0.5 * x.std() * np.sin(2 * np.pi * 100 * np.arange(len(x)) / RATE),
            "muffled": lambda x: signal.sosfilt(low, x),
            "far": lambda x: 0.05 * x,
        }
        found = {n: self._pair(~self._own & self._test, change) for n, change in changes.items()}
        found["unseen speaker"] = self._pair(self._own)
        return {name: (x[:count], digits[:count]) for name, (x, digits) in found.items()}


@functools.cache
def _recordings(folder: Path) -> Recordings:
    return Recordings(folder)


def study(folder: Path) -> Study:
    """The study; folder: `EDGEMEM_DATA`."""
    return Study(
        "Spoken digits, LSTM",
        "classes",
        lambda: networks.Listener(10),
        lambda count: _recordings(folder).training(count),
        F.cross_entropy,
        lambda count: _recordings(folder).conditions(count),
        measures.class_wrong,
        "digits",
        options=(),
        rounds=20,
    )
