"""What is adapted: a frozen model, its source data, and the contexts it is used in, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.adaptation.protocols import SPEAKERS
from benchmarks.adaptation.streams import CLEAN, SPEECH_BATCH
from benchmarks.shared.cifar import MEAN, STD, frost_folder, load_cifar10, load_test_jpeg
from benchmarks.shared.corruptions import corrupt
from benchmarks.shared.resnets import PARTS as IMAGE_PARTS
from benchmarks.shared.resnets import Depth, frozen_model, warmed_checkpoint
from benchmarks.shared.speech import (
    BANDS,
    STEPS,
    TRAINING,
    load_speech,
    network,
    other_voices,
    trained,
)
from benchmarks.shared.views import image_view, sound_view, warm_up_view
from benchmarks.shared.warm_cache import cache_path, cached_warm_up
from edgemem.models import AdaptiveModel, Normalization, Recipe, attach
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.sites.measuring import measure_source

NATURAL = "JPEG files"
IMAGE_NORMALIZATION = Normalization(MEAN, STD)
SPEECH_NORMALIZATION = Normalization((0.0,) * BANDS, (1.0,) * BANDS)  # features come normalised
SEVERITY = 5
VOICES = 2  # views of every recording in a warm-up
OFFICIAL_TEST = 5  # recordings of a digit and speaker, of fifty
Frames = NDArray[Any]
Labels = NDArray[np.int64]
Pool = tuple[dict[str, Frames], Labels, Labels]
Note = Callable[[str], None]
Augment = Callable[[torch.Tensor], torch.Tensor]


class Task(Protocol):
    """One frozen model and where it is used.

    parts: where its meta networks go. batch: frames of a step. view: random view for peers that
    need one; warm_up_view: of EcoTTA's warm-up.
    """

    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def batch(self) -> int: ...
    @property
    def normalization(self) -> Normalization: ...
    @property
    def view(self) -> Augment: ...
    @property
    def warm_up_view(self) -> Augment: ...

    def frozen(self) -> nn.Module:
        """The frozen model; it takes frames that are normalised."""

    def source(self) -> tuple[Frames, Labels]:
        """Training frames, channels first: uint8, or float32 as the model takes them."""

    def pool(self, contexts: Sequence[str], images: int, note: Note) -> Pool:
        """Frames of every context, CLEAN among them; labels of the contexts', and of clean ones."""

    def warmed(self, *, quick: bool, measured: bool = False) -> Path:
        """The checkpoint after a warm-up, with mixed statistics; see `setups.with_statistics`.

        measured: around moments of source frames in eval mode.
        """


@dataclass(frozen=True)
class Images:
    """A ResNet by others on CIFAR-10 and its corruptions."""

    data: Path
    depth: Depth
    batch: int = 64
    normalization: Normalization = IMAGE_NORMALIZATION
    view: Augment = image_view
    warm_up_view: Augment = warm_up_view

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Task`."""
        return IMAGE_PARTS[self.depth]

    def frozen(self) -> nn.Module:
        """See `Task`."""
        return frozen_model(self.data, self.depth)

    def source(self) -> tuple[Frames, Labels]:
        """See `Task`."""
        frames, labels = load_cifar10(self.data, "train")
        return frames.transpose(0, 3, 1, 2), labels

    def pool(self, contexts: Sequence[str], images: int, note: Note) -> Pool:
        """Contexts: "name" at severity 5 or "name/severity"."""
        frames, labels = load_cifar10(self.data, "test")
        found = {}
        for name in contexts:
            note(name)
            found[name] = self._context(frames[:images], name).transpose(0, 3, 1, 2)
        return found, labels[:images], labels[:images]

    def _context(self, frames: Frames, name: str) -> Frames:
        kind, _, level = name.partition("/")
        if kind == CLEAN:
            return frames
        if kind == NATURAL:
            return load_test_jpeg(self.data)[: len(frames)]
        frost = frost_folder(self.data)
        return corrupt(frames, kind, int(level or SEVERITY), seed=0, frost_folder=frost)

    def warmed(self, *, quick: bool, measured: bool = False) -> Path:
        """See `Task`."""
        recipe, frames = Recipe(epochs=1 if quick else 3), 3200 if quick else 25_600
        return warmed_checkpoint(self.data, recipe, frames, self.depth, measured=measured)


@dataclass(frozen=True)
class Speech:
    """A small 1-D network on spoken digits, trained without the speaker it meets."""

    data: Path
    speaker: str
    parts: tuple[str, ...] = ("stem", "blocks[0:1]", "blocks[1:2]", "blocks[2:3]")
    batch: int = SPEECH_BATCH
    normalization: Normalization = SPEECH_NORMALIZATION
    view: Augment = sound_view
    warm_up_view: Augment = sound_view

    def frozen(self) -> nn.Module:
        """See `Task`."""
        return _trained(self.data, self.speaker)

    def source(self) -> tuple[Frames, Labels]:
        """See `Task`."""
        return _recordings(self.data, self.speaker)[0]

    def pool(self, contexts: Sequence[str], images: int, note: Note) -> Pool:
        """One context: the speaker. Clean frames: the official test recordings of the others."""
        _, (clean, clean_labels), (frames, labels) = _recordings(self.data, self.speaker)
        return dict.fromkeys(contexts, frames) | {CLEAN: clean}, labels, clean_labels

    def warmed(self, *, quick: bool, measured: bool = False) -> Path:
        """See `Task`."""
        kind = f"speech-{self.speaker}-measured" if measured else f"speech-{self.speaker}"

        def attached() -> AdaptiveModel:
            model = attach(self.frozen(), self.parts, torch.zeros(2, BANDS, STEPS))
            if measured:
                measure_source(model, self.source()[0])
            return model

        settings = {"parts": self.parts, "voices": VOICES}
        return cached_warm_up(kind, settings, Recipe(epochs=1), attached, self._voices)

    def _voices(self) -> tuple[Frames, Labels]:
        """Source recordings in other voices. Longer training gains nothing: the network knows the
        recordings themselves by heart."""
        frames, labels = self.source()
        views = [other_voices(frames, seed) for seed in range(VOICES)]
        return np.concatenate(views), np.tile(labels, VOICES)


@functools.cache
def _recordings(data: Path, speaker: str) -> list[tuple[Frames, Labels]]:
    """Source, clean and the speaker's features and digits, normalised by the source."""
    frames, digits, speakers, take, names = load_speech(data)
    own = speakers == names.index(speaker)
    test = take < OFFICIAL_TEST
    frames = (frames - frames[~own & ~test].mean()) / frames[~own & ~test].std()
    return [(frames[which], digits[which]) for which in (~own & ~test, ~own & test, own)]


@functools.cache
def _trained(data: Path, speaker: str) -> nn.Module:
    path = cache_path(f"speech-{speaker}-frozen", TRAINING)
    if path.exists():
        model = network()
        model.load_state_dict(read_tensors(path)[0])
        return model.eval()
    model = trained(*_recordings(data, speaker)[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, model.state_dict(), {})
    return model


def task_of(name: str, data: Path) -> Task:
    """The task of that name: "ResNet-20", "ResNet-32" or "speech, <speaker>"."""
    kind, _, rest = name.partition(", ")
    if kind == "speech" and rest in SPEAKERS:
        return Speech(data, rest)
    return Images(data, {"ResNet-20": 20, "ResNet-32": 32}[name])
