"""Train side of `python -m benchmarks.average`: small networks, their frames, bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.shared.cifar import frost_folder, load_cifar10
from benchmarks.shared.corruptions import corrupt
from benchmarks.shared.speech import BANDS, STEPS, load_speech, network, other_voices
from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.data import to_float

Frames = NDArray[Any]
Labels = NDArray[np.int64]
MILD = (("brightness", 3), ("gaussian_noise", 1), ("contrast", 2), ("defocus_blur", 2))
STRONG = (("gaussian_noise", 5), ("contrast", 5), ("defocus_blur", 5), ("snow", 5))
HELD = 2000  # frames of a context
WARM_UP_FRAMES = 12_800


@dataclass(frozen=True)
class Material:
    """Source frames and labels; of every stream its contexts' frames [n, ...], and their labels."""

    frames: Frames
    labels: Labels
    contexts: dict[str, list[tuple[Frames, Labels]]]


@dataclass(frozen=True)
class Subject:
    """network: untrained. epochs, rate: of a short training, after which 50 to 80 % are right."""

    network: Callable[[], nn.Module]
    parts: tuple[str, ...]
    material: Callable[[Path], Material]
    shape: tuple[int, ...]
    epochs: int
    rate: float = 3e-3


class Images(nn.Module):
    """Three convolutions with BatchNorm, a mean, a linear classifier."""

    def __init__(self, widths: tuple[int, int, int], classes: int, stride: int = 2) -> None:
        super().__init__()
        sizes = (3, *widths)
        self.parts = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(sizes[k], sizes[k + 1], 3, 2 if k else stride, 1, bias=False),
                    nn.BatchNorm2d(sizes[k + 1]),
                    nn.ReLU(),
                )
                for k in range(3)
            )
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> logits."""
        found: Tensor = self.classifier(self.parts(x).mean((2, 3)))
        return found


def cifar(data: Path) -> Material:
    """CIFAR-10, with corruptions of severity 1 to 3 (mild) and 5 (strong)."""
    frames, labels = (_channels_first(x) for x in load_cifar10(data, "train"))
    test, test_labels = load_cifar10(data, "test")
    test, held = test[:HELD], test_labels[:HELD]

    def corrupted(kinds: tuple[tuple[str, int], ...]) -> list[tuple[Frames, Labels]]:
        frost = frost_folder(data)
        made = [corrupt(test, kind, level, seed=0, frost_folder=frost) for kind, level in kinds]
        return [(_channels_first(x), held) for x in made]

    clean = [(_channels_first(test), held)]
    return Material(
        frames[:25_600],
        labels[:25_600],
        {"clean": clean, "mild": corrupted(MILD), "strong": corrupted(STRONG)},
    )


def patterns(_: Path) -> Material:
    """Eight random patterns under noise; less contrast (mild), and more noise, too (strong)."""
    of_class = np.random.default_rng(0).uniform(0, 1, (8, 3, 16, 16))

    def drawn(count: int, seed: int) -> tuple[Frames, Labels]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 8, count)
        x = 0.22 * of_class[labels] + 0.39 + 0.3 * rng.normal(0, 1, (count, 3, 16, 16))
        return x.clip(0, 1).astype(np.float32), labels

    frames, labels = drawn(3000, 1)
    clean, held = drawn(HELD, 2)
    rng = np.random.default_rng(3)
    noisy = 0.5 * clean + 0.35 + 0.08 * rng.normal(0, 1, clean.shape)
    found = {"clean": clean, "mild": 0.8 * clean + 0.15, "strong": noisy}
    contexts = {n: [(x.clip(0, 1).astype(np.float32), held)] for n, x in found.items()}
    return Material(frames, labels, contexts)


def speech(data: Path) -> Material:
    """Spoken digits of four speakers; in other voices (mild); by two others (strong)."""
    frames, digits, speakers, takes, _ = load_speech(data)
    known, test = speakers < 4, takes < 10
    source = known & ~test
    frames = (frames - frames[source].mean()) / frames[source].std()
    clean, unknown = known & test, ~known
    contexts = {
        "clean": [(frames[clean], digits[clean])],
        "mild": [(other_voices(frames[clean], 0), digits[clean])],
        "strong": [(frames[unknown], digits[unknown])],
    }
    return Material(frames[source], digits[source], contexts)


PARTS = ("parts[0:2]", "parts[2:3]")
SUBJECTS = {
    "narrow": Subject(lambda: Images((16, 32, 64), 10), PARTS, cifar, (3, 32, 32), 6),
    "wide": Subject(lambda: Images((32, 64, 96), 10), PARTS, cifar, (3, 32, 32), 6),
    "patterns": Subject(lambda: Images((16, 16, 16), 8, stride=1), PARTS, patterns, (3, 16, 16), 8),
    "speech": Subject(
        network, ("stem", "blocks[0:1]", "blocks[1:2]"), speech, (BANDS, STEPS), 1, 5e-4
    ),
}


def trained(subject: Subject, material: Material) -> nn.Module:
    """The subject's network after its short training."""
    torch.manual_seed(0)
    model, rng = subject.network().train(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), subject.rate)
    for _ in range(subject.epochs):
        for chosen in np.array_split(
            rng.permutation(len(material.frames)), len(material.frames) // 64
        ):
            logits = model(to_float(material.frames[chosen]))
            loss = functional.cross_entropy(logits, torch.from_numpy(material.labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def write_bundles(name: str, data: Path, batches: tuple[int, ...], folder: Path) -> None:
    """Train, warm up and export by default, once for every batch size; and the streams' frames."""
    subject = SUBJECTS[name]
    material = subject.material(data)
    model = attach(
        trained(subject, material), subject.parts, torch.zeros(2, *subject.shape),
        statistics="remembered",
    )  # fmt: skip
    some = slice(0, WARM_UP_FRAMES)
    warm_up(model, material.frames[some], material.labels[some], Recipe(epochs=3))
    model.add_norm_affine()  # the default of `edgemem export`
    for batch in batches:
        export_bundle(model, folder / f"{name}-{batch}.edgemem", Choices(batch=batch))
    arrays = {
        f"{kind}-{part}-{number}": array
        for kind, contexts in material.contexts.items()
        for number, pair in enumerate(contexts)
        for part, array in zip("xy", pair, strict=True)
    }
    np.savez(folder / f"{name}.npz", **arrays)


def _channels_first(array: Frames) -> Frames:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
