"""Who is taught what: networks that know half of the classes, bundles, frames of a device.

Speech: for each of six speakers a network that was trained on five digits of the other five.
Digits: one network that was trained on clear images of five, and met in the contexts of the demo.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from build_demo import PARTS as IMAGE_PARTS
from build_demo import SOURCE_FRAMES, drift, load_frames
from numpy.typing import NDArray
from plain_training import train as plainly_trained
from torch import nn

from benchmarks.adaptation.kept import REPOSITORY
from benchmarks.new_classes.courses import BATCH
from benchmarks.shared.cache import cache_home, code_meaning, digest
from benchmarks.shared.speech import (
    BANDS,
    STEPS,
    TRAINING,
    load_speech,
    network,
    other_voices,
    trained,
)
from benchmarks.shared.warm_cache import cache_path, cached_warm_up
from edgemem.export import Choices, export_bundle
from edgemem.models import AdaptiveModel, Recipe, attach, load_adaptive
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.networks import digits

CLASSES, OWN = 10, 5
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SOUND_PARTS = ("stem", "blocks[0:1]", "blocks[1:2]", "blocks[2:3]")
VOICES = 2  # views of every recording in a warm-up
TEST_TAKES = 20  # recordings of a digit and speaker, of fifty
TEST_IMAGES = 30  # of a digit
CHECKS = (
    "parity.py",
    "export_command.py",
)  # of the exporter; they decide nothing of what is written
EXPORT_CODE = ("export/**/*.py", "models/**/*.py", "edgemem/bundle/*.py")
Frames = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """A device. own: the classes its model knows, in the order of its logits. source: frames and
    labels (by logit) of training. frames, labels: what the device meets; test: which of these are
    kept apart."""

    name: str
    own: tuple[int, ...]
    model: AdaptiveModel
    bundle: Path
    source: tuple[Frames, Labels]
    frames: Frames
    labels: Labels
    test: Labels

    @property
    def new(self) -> tuple[int, ...]:
        """The classes it is taught."""
        return tuple(c for c in range(CLASSES) if c not in self.own)


def speaker(data: Path, number: int, name: str) -> Subject:
    """One who is in nobody's training."""
    frames, labels, speakers, takes, names = _recordings(data)
    own, mine = halves(number), speakers == names.index(name)
    taught = ~mine & np.isin(labels, own)
    mean, deviation = frames[taught].mean(), frames[taught].std()
    source = (frames[taught] - mean) / deviation, by_logit(labels[taught], own)
    kind = f"half-speech-{name}"
    settings = {"own": own, **TRAINING}
    frozen = _kept(kind, settings, network(OWN), lambda: trained(*source, OWN))
    voices = np.concatenate([other_voices(source[0], seed) for seed in range(VOICES)])
    warm = cached_warm_up(
        kind,
        {**settings, "parts": SOUND_PARTS, "voices": VOICES, "batch": BATCH},
        Recipe(epochs=1),
        lambda: attach(frozen, SOUND_PARTS, torch.zeros(2, BANDS, STEPS), statistics="remembered"),
        lambda: (voices, np.tile(source[1], VOICES)),
    )
    model, bundle = _bundle(kind, warm, frozen, own, Choices(batch=BATCH))
    held = np.flatnonzero(takes[mine] < TEST_TAKES)
    here = (frames[mine] - mean) / deviation
    return Subject(name, own, model, bundle, source, here, labels[mine], held)


def images(contexts: Sequence[str]) -> list[Subject]:
    """One network, met in each of these contexts."""
    frames, labels = load_frames()
    own = halves(0)
    chosen = np.flatnonzero(np.isin(labels[:SOURCE_FRAMES], own))
    source = frames[chosen].astype(np.float32) / 255, by_logit(labels[chosen], own)

    def train() -> nn.Module:
        torch.manual_seed(0)
        x = torch.from_numpy(frames[chosen]).float() / 255
        return plainly_trained(digits(OWN), x, source[1], epochs=40, batch=50)

    settings = {"own": own, "frames": SOURCE_FRAMES}
    frozen = _kept("half-digits", settings, digits(OWN), train)
    warm = cached_warm_up(
        "half-digits",
        {**settings, "parts": IMAGE_PARTS},
        Recipe(epochs=20, batch_size=20),
        lambda: attach(frozen, IMAGE_PARTS, torch.zeros(2, 1, 8, 8), statistics="remembered"),
        lambda: source,
    )
    model, bundle = _bundle("half-digits", warm, frozen, own, Choices(batch=BATCH))
    clear, here = frames[SOURCE_FRAMES:] / 255.0, labels[SOURCE_FRAMES:]
    order = np.random.default_rng(0).permutation(len(here))
    held = np.concatenate([order[here[order] == c][:TEST_IMAGES] for c in range(CLASSES)])
    held = np.random.default_rng(1).permutation(held)
    found = []
    for number, context in enumerate(contexts):
        seen = np.clip(drift(clear, context, np.random.default_rng(number)), 0, 1)
        name = f"digits, {context}"
        found.append(Subject(name, own, model, bundle, source, seen.astype(np.float32), here, held))
    return found


def halves(seed: int) -> tuple[int, ...]:
    """The digits that a model knows."""
    chosen = np.random.default_rng(seed).permutation(CLASSES)[:OWN]
    return tuple(sorted(int(digit) for digit in chosen))


def by_logit(labels: Labels, own: Sequence[int]) -> Labels:
    """Labels of a model's own classes as its logits count them."""
    return np.searchsorted(np.array(own), labels)


@functools.cache
def _recordings(data: Path) -> tuple[Frames, Labels, Labels, Labels, tuple[str, ...]]:
    return load_speech(data)


def _kept(
    kind: str, settings: dict[str, object], empty: nn.Module, train: Callable[[], nn.Module]
) -> nn.Module:
    """A frozen model, from the cache if it is there."""
    path = cache_path(f"{kind}-frozen", settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, train().state_dict(), {})
    empty.load_state_dict(read_tensors(path)[0])
    return empty.eval()


def _bundle(
    kind: str, warm: Path, frozen: nn.Module, own: Sequence[int], choices: Choices
) -> tuple[AdaptiveModel, Path]:
    """The warm model, and its bundle with room for all classes, from the cache if it is there."""
    model, _ = load_adaptive(warm, frozen)
    model.add_norm_affine()
    labels = tuple(WORDS[digit] for digit in own)
    chosen = Choices(choices.batch, labels=labels, max_classes=CLASSES)
    return model, kept_bundle(f"{kind}-{warm.stem}", model, chosen)


def kept_bundle(name: str, model: AdaptiveModel, choices: Choices) -> Path:
    """The bundle of a model, from the cache if what exports it has not changed since. name: tells
    which model it is."""
    paths = [path for pattern in EXPORT_CODE for path in sorted(REPOSITORY.glob(pattern))]
    paths = [path for path in paths if path.name not in CHECKS]
    text = json.dumps([name, choices.batch, choices.labels, choices.max_classes])
    code = digest([text.encode(), *map(code_meaning, paths)])
    path = cache_home() / "bundles" / f"{name}-{code[:16]}.edgemem"
    if path.exists():
        print(f"export: taken from the cache, {path.name}", file=sys.stderr)
        return path
    draft = path.with_name(f"draft-{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    print(f"export: {path.name}", file=sys.stderr)
    export_bundle(model, draft, choices)
    draft.rename(path)
    return path
