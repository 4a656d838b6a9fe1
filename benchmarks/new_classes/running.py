"""Runs: a device or a peer is taught course after course; answers on the test part are kept."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import edgemem
from benchmarks.new_classes.courses import BATCH, Course, Index, batches
from benchmarks.new_classes.measures import Accuracies, accuracies
from benchmarks.new_classes.peers import MEANS, PEERS, Features, Make
from benchmarks.new_classes.subjects import WORDS, Frames, Subject
from benchmarks.shared.cache import cache_home
from edgemem.models.adaptive.classifier import features_of

OURS = "EdgeMem"
LABELLED_TOGETHER = 4  # labelled frames beside recent ones in a batch of 16, as the runtime does
ADAPTED = ", our warm model"
GRAPHS = cache_home() / "graphs"  # optimised by the engine: hundreds of runs open the same few


@dataclass(frozen=True)
class Way:
    """How a device of ours is opened. strangers: whether it meets classes before they are taught.
    teaches: False = it meets the same frames without labels, and learns no class."""

    choices: dict[str, Any] = field(default_factory=dict)
    strangers: bool = False
    teaches: bool = True


UNTAUGHT, STILL = f"{OURS}, nothing taught", f"{OURS}, no unlabelled steps"
WAYS = {
    OURS: Way(),
    f"{OURS}, prototypes alone": Way({"options": edgemem.Options(read="prototypes", cache=GRAPHS)}),
    f"{OURS}, no gradient": Way({"hyper_parameters": {"learn_rate": 0.0}}),
    STILL: Way({"adapt": False}),
    f"{OURS}, strangers in the stream": Way(strangers=True),
    UNTAUGHT: Way(teaches=False),
}


@dataclass(frozen=True)
class Cost:
    """Of the lessons of one run. milliseconds: of each `learn`, commit included. written: bytes of
    each. grown: bytes of the state file and its log from the first lesson to the last."""

    milliseconds: tuple[float, ...]
    written: tuple[int, ...]
    grown: int


def run_ours(subject: Subject, made: Course, shots: int, way: Way) -> tuple[Accuracies, Cost]:
    """Teach a fresh device the course, `shots` labelled frames of each class."""
    frames, stages = subject.frames, made.strangers if way.strangers else made.met
    scores, took, written, sizes = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        path = Path(text) / "device.db"
        choices = {"options": edgemem.Options(cache=GRAPHS), **way.choices}
        with edgemem.open(subject.bundle, path, threads=1, **choices) as device:
            for number, (met, lesson) in enumerate(zip(stages, made.lessons, strict=True)):
                for batch in batches(met):
                    device.step(frames[batch])
                if number == 0:
                    scores.append(_answers(device, frames, made.test))
                name = WORDS[subject.labels[lesson[0]]]
                before, began = device.bytes_written, time.perf_counter()
                if way.teaches:
                    device.learn(frames[lesson[:shots]], [name] * shots)
                took.append(1000 * (time.perf_counter() - began))
                written.append(device.bytes_written - before)
                sizes.append(_bytes(path))
                scores.append(_answers(device, frames, made.test))
    cost = Cost(tuple(took), tuple(written), sizes[-1] - sizes[0])
    return accuracies(made, scores), cost


def _answers(device: edgemem.Runtime, frames: Frames, test: Index) -> NDArray[np.float32]:
    return np.concatenate([device.predict(frames[batch]).logits for batch in batches(test)])


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


class Peers:
    """Those of one subject; features of its source frames are computed once."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._classifier = subject, classifier_of_own(subject)
        frames, labels = subject.source
        order = np.random.default_rng(0).permutation(len(frames))
        self._labels = labels[order]
        self._source = {warm: self._features(frames[order], warm) for warm in (False, True)}

    def run(self, made: Course, shots: int) -> list[tuple[str, str, Accuracies]]:
        """Name, setting and accuracies of all peers on one course."""
        found = []
        for warm, peers in ((False, PEERS), (True, MEANS)):
            test = self._features(self._subject.frames[made.test], warm)
            lessons = self._lessons(made, shots, warm)
            for name, settings in peers.items():
                title = name + ADAPTED if warm else name
                for setting, make in settings.items():
                    right = self._run(made, make, test, lessons, warm)
                    found.append((title, setting, right))
        return found

    def _run(
        self, made: Course, make: Make, test: Features, lessons: list[Features], warm: bool
    ) -> Accuracies:
        peer = make(self._source[warm].copy(), self._labels, self._classifier)
        scores = [peer.scores(test)]
        for number, lesson in enumerate(lessons):
            peer.learn(lesson, made.own + number)
            scores.append(peer.scores(test))
        return accuracies(made, scores)

    def _features(self, frames: Frames, warm: bool) -> Features:
        """In batches of 16."""
        parts = batches(np.arange(len(frames)))
        return np.concatenate([features(self._subject, frames[part], warm=warm) for part in parts])

    def _lessons(self, made: Course, shots: int, warm: bool) -> list[Features]:
        """Four labelled frames at a time beside the twelve met last, as ours get them."""
        found = []
        for met, lesson in zip(made.met, made.lessons, strict=True):
            parts = []
            for start in range(0, shots, LABELLED_TOGETHER):
                chosen = lesson[start : min(shots, start + LABELLED_TOGETHER)]
                window = self._subject.frames[np.concatenate([met[len(chosen) - BATCH :], chosen])]
                parts.append(features(self._subject, window, warm=warm)[-len(chosen) :])
            found.append(np.concatenate(parts))
        return found


def features(subject: Subject, frames: Frames, *, warm: bool) -> Features:
    """What the classifier is given [n, size]: by the frozen model, or by the warm one with the
    statistics of these frames."""
    model, x = subject.model, torch.from_numpy(np.ascontiguousarray(frames))
    with torch.no_grad(), features_of(classifier_of_own(subject)) as seen:
        if warm:
            alpha = model.alpha(len(x))
            model(x, None if alpha is None else torch.tensor(alpha))
        else:
            model.frozen_logits(x)
    return seen[0].double().numpy()


def classifier_of_own(subject: Subject) -> nn.Linear:
    """The linear layer that tells the subject's own classes apart."""
    found = subject.model.classifier
    assert found is not None, "every subject's network has one"
    return found
