"""Each kind of output: a network that is trained here, its conditions, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.ocr.shifts import CLEAN, SHIFTS, shifted
from benchmarks.tasks import measures, networks, scenes
from benchmarks.tasks.measures import Right

Frames = NDArray[Any]
MEAN, DEVIATION = 0.5, 0.25  # of every channel of pictures
ALIGNMENT = ("--norm-affine", "--objective", "alignment")
# With the optimizer and the rate of its authors' configurations.
SUBSPACE = ("--norm-affine", "--objective", "subspace_alignment", "--optimizer", "adam",
            "--learning-rate", "1e-3")  # fmt: skip
STEPS = ("--norm-affine", "--objective", "likelihood_ratio")


@dataclass(frozen=True)
class Study:
    """A network of one kind of output.

    Attributes:
        task: as `edgemem export --task` takes it.
        network: untrained.
        training: so many frames, and what is right for them.
        target: what is right for training frames, as the loss takes it.
        loss: of answers and targets.
        conditions: frames by name of a condition, and what is right for them.
        error: answers and what is right -> a share; measure: what that is, for people.
        options: of `edgemem export`, besides source frames, for the bundle that takes steps.
        rounds: passes over the training frames.
        frames: for training, and for every condition.
    """

    title: str
    task: str
    network: Callable[[], nn.Module]
    training: Callable[[int], tuple[Frames, Any]]
    loss: Callable[[Tensor, Any], Tensor]
    conditions: Callable[[int], Mapping[str, tuple[Frames, Right]]]
    error: Callable[[Any, Right], float]
    measure: str
    options: tuple[str, ...] = STEPS
    rounds: int = 8
    frames: tuple[int, int] = (3000, 320)
    target: Callable[[Frames, Any], Tensor] = lambda frames, right: torch.from_numpy(right)


def to_tensor(frames: Frames) -> Tensor:
    """As the network takes them: pictures normalised, features as they are."""
    if frames.dtype == np.uint8:
        return (torch.from_numpy(frames).float() / 255 - MEAN) / DEVIATION
    return torch.from_numpy(frames)


def _of_pictures(
    make: Callable[[int, int], tuple[Frames, Right]],
) -> Callable[[int], Mapping[str, tuple[Frames, Right]]]:
    def conditions(count: int) -> Mapping[str, tuple[Frames, Right]]:
        frames, right = make(count, 0)
        return {name: (shifted(frames, name, 0), right) for name in (CLEAN, *SHIFTS)}

    return conditions


def _maps(count: int, seed: int) -> tuple[Frames, Right]:
    found = scenes.scenes(count, seed)
    return found.frames, found.maps


def _present(count: int, seed: int) -> tuple[Frames, Right]:
    found = scenes.scenes(count, seed)
    return found.frames, found.present


def _places(count: int, seed: int) -> tuple[Frames, Right]:
    found = scenes.scenes(count, seed, most=1)
    return found.frames, found.places


def _surface_conditions(count: int) -> Mapping[str, tuple[Frames, Right]]:
    """What is made again is compared with what was seen, shifts and all."""
    frames, scratched = scenes.surfaces(count, 0)
    found = {name: shifted(frames, name, 0) for name in (CLEAN, *SHIFTS)}
    return {name: (x, (to_tensor(x).numpy(), scratched)) for name, x in found.items()}


def _ctc(answers: Tensor, right: Tensor) -> Tensor:
    steps = answers.log_softmax(2).transpose(0, 1)
    lengths = torch.full((len(right),), steps.shape[0])
    return F.ctc_loss(steps, right + 1, lengths, torch.full((len(right),), right.shape[1]))


def _training(
    make: Callable[[int, int], tuple[Frames, Any]],
) -> Callable[[int], tuple[Frames, Any]]:
    return lambda count: make(count, scenes.TRAINING_SEEDS)


def pictures() -> dict[str, Study]:
    """The studies on pictures that are made here."""
    return {
        "segmentation": Study(
            "Segmentation", "dense", lambda: networks.UNet(11), _training(_maps),
            F.cross_entropy, _of_pictures(_maps), measures.overlap_missed, "overlap (1 - mIoU)",
        ),
        "labels": Study(
            "Several labels", "multilabel", lambda: networks.Tower(10, largest=True),
            _training(_present), lambda a, r: F.binary_cross_entropy_with_logits(a, r.float()),
            _of_pictures(_present), measures.precision_missed, "precision (1 - mAP)", rounds=12,
        ),
        "lines": Study(
            "Lines of digits (CTC)", "sequence", lambda: networks.Reader(11),
            _training(scenes.lines), _ctc, _of_pictures(scenes.lines), measures.digits_wrong,
            "lines", rounds=10,
        ),
        "places": Study(
            "Place of a digit", "regression", lambda: networks.Tower(2, largest=False),
            _training(_places), F.smooth_l1_loss, _of_pictures(_places), measures.distance,
            "place (distance, of a side)", options=SUBSPACE,
        ),
        "scratches": Study(
            "Scratches, by reconstruction", "reconstruction", networks.Autoencoder,
            _training(scenes.surfaces), F.mse_loss, _surface_conditions, measures.unranked,
            "pairs (1 - AUC)", options=ALIGNMENT, rounds=16,
            target=lambda frames, right: to_tensor(frames),
        ),
    }  # fmt: skip
