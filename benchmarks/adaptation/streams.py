"""Protocols: which frame comes when, and from which context. Frames themselves lie in a pool.

A stream names, for every frame, its context, its image within that context, its label and its
visit; so a hundred thousand frames take little more than their numbers. Labels come in random order
except where a protocol says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Labels = NDArray[np.int64]
SLOTS, SLOT_CONCENTRATION, PRIOR_CONCENTRATION = 10, 0.1, 0.3
VISIT = 256  # frames of a visit, where contexts come back
LEVELS = (1, 2, 3, 4, 5, 4, 3, 2, 1)  # severities of a gradual change
CLEAN = "clean"
SPEECH_BATCH = 16  # a speaker has no more than 500 recordings


@dataclass(frozen=True)
class Stream:
    """contexts: their names. Of every frame: context (number in `contexts`), image, label, visit.

    batch: frames that a method gets at a time.
    """

    contexts: tuple[str, ...]
    context: Numbers
    image: Numbers
    label: Labels
    visit: Numbers
    batch: int

    def __len__(self) -> int:
        return len(self.label)

    def save(self, path: Path) -> None:
        """As an .npz file."""
        np.savez(path, **{name: getattr(self, name) for name in self.__dataclass_fields__})

    @staticmethod
    def load(path: Path) -> Stream:
        """From an .npz file."""
        with np.load(path) as held:
            arrays = {name: held[name] for name in ("context", "image", "label", "visit")}
            return Stream(tuple(held["contexts"].tolist()), **arrays, batch=int(held["batch"]))


def pool_path(folder: Path, context: str) -> Path:
    """Where the frames of a context lie."""
    return folder / "pool" / f"{context.replace('/', '-')}.npy"


class Builder:
    """Gathers a stream visit by visit. labels: of the images of every context alike."""

    def __init__(self, labels: Labels, seed: int) -> None:
        self.labels, self.rng = labels, np.random.default_rng(seed)
        self._names: list[str] = []
        self._parts: list[tuple[int, Numbers, int]] = []
        self._of_class = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]

    def add(self, context: str, images: Numbers, visit: int = 0) -> None:
        """Images of a context, in this order."""
        if context not in self._names:
            self._names.append(context)
        self._parts.append((self._names.index(context), images, visit))

    def some(self, count: int) -> Numbers:
        """Images at random, each once as long as there are others."""
        rounds = -(-count // len(self.labels))
        return np.concatenate([self.rng.permutation(len(self.labels)) for _ in range(rounds)])[
            :count
        ]

    def of_classes(self, classes: Numbers) -> Numbers:
        """An image at random of each of these classes."""
        return np.array([self.rng.choice(self._of_class[c]) for c in classes])

    def build(self, batch: int = 64, *, shuffled: bool = False) -> Stream:
        """The stream; shuffled: all contexts mixed."""
        context = np.concatenate([np.full(len(images), k) for k, images, _ in self._parts])
        image = np.concatenate([images for _, images, _ in self._parts])
        visit = np.concatenate([np.full(len(images), v) for _, images, v in self._parts])
        order = self.rng.permutation(len(image)) if shuffled else np.arange(len(image))
        context, image, visit = context[order], image[order], visit[order]
        return Stream(tuple(self._names), context, image, self.labels[image], visit, batch)


def by_slots(classes: Numbers, rng: np.random.Generator) -> Numbers:
    """Places of frames in PeTTA's order: each class is spread over slots by Dirichlet, and is
    contiguous within a slot.

    Source: Hoang et al., NeurIPS 2024, section 6, and the authors' code.
    """
    slots: list[list[Numbers]] = [[] for _ in range(SLOTS)]
    for c in np.unique(classes):
        places = np.flatnonzero(classes == c)
        shares = rng.multinomial(len(places), rng.dirichlet([SLOT_CONCENTRATION] * SLOTS))
        for slot, part in zip(slots, np.split(places, np.cumsum(shares)[:-1]), strict=True):
            slot.append(part)
    for slot in slots:
        rng.shuffle(slot)  # type: ignore[arg-type]
    return np.concatenate([part for slot in slots for part in slot])


def correlated(classes: Numbers, rng: np.random.Generator) -> Numbers:
    """Classes in that order."""
    return classes[by_slots(classes, rng)]


def continual(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Contexts one after another, each once."""
    for name in contexts:
        builder.add(name, builder.some(frames))
    return builder.build()


def single(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """The same frame by frame."""
    for name in contexts:
        builder.add(name, builder.some(frames))
    return builder.build(batch=1)


def speech(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Every recording of a speaker once, in small batches."""
    for name in contexts:
        builder.add(name, builder.some(len(builder.labels)))
    return builder.build(batch=SPEECH_BATCH)


def gradual(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Each context from severity 1 up to 5 and down again."""
    for name in contexts:
        for level in LEVELS:
            builder.add(f"{name}/{level}" if level < 5 else name, builder.some(frames // 8))
    return builder.build()


def mixed(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Frames of all contexts in random order."""
    for name in contexts:
        builder.add(name, builder.some(frames))
    return builder.build(shuffled=True)


def label_correlated(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Contexts once each, labels in PeTTA's order."""
    for name in contexts:
        images = builder.some(frames)
        builder.add(name, images[by_slots(builder.labels[images], builder.rng)])
    return builder.build()


def bursts(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Contexts once each, in runs of 64 to 256 frames of one class."""
    rng, classes = builder.rng, int(builder.labels.max()) + 1
    for name in contexts:
        runs = [
            np.full(rng.integers(64, 257), rng.integers(classes)) for _ in range(-(-frames // 64))
        ]
        builder.add(name, builder.of_classes(np.concatenate(runs)[:frames]))
    return builder.build()


def clean(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
    """Source frames and nothing else."""
    builder.add(CLEAN, builder.some(len(contexts) * frames // 3))
    return builder.build()


def recurring(
    priors: str, order: Callable[[Numbers, np.random.Generator], Numbers] | None, visits: int
) -> Callable[[Builder, Sequence[str], int], Stream]:
    """Contexts that come back. priors: "flat", "skewed" (each context has a class prior of its own,
    Dirichlet 0.3) or "halves" (even contexts hold one half of the classes, odd ones the other)."""

    def make(builder: Builder, contexts: Sequence[str], frames: int) -> Stream:
        classes = int(builder.labels.max()) + 1
        chances = _priors(priors, len(contexts), classes, builder.rng)
        for visit in range(visits):
            for name, chance in zip(contexts, chances, strict=True):
                drawn = builder.rng.choice(classes, VISIT, p=chance)
                drawn = drawn if order is None else order(drawn, builder.rng)
                builder.add(name, builder.of_classes(drawn), visit)
        return builder.build()

    return make


def _priors(
    kind: str, contexts: int, classes: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    if kind == "skewed":
        return rng.dirichlet([PRIOR_CONCENTRATION] * classes, contexts)
    chances = np.full((contexts, classes), 1 / classes)
    if kind == "halves":
        low = np.arange(classes) < classes // 2
        chances = np.stack([low if k % 2 == 0 else ~low for k in range(contexts)]).astype(float)
        chances /= chances.sum(1, keepdims=True)
    return chances
