"""A model that tells classes apart by the nearest prototype, and takes up new ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemem.errors import InputError
from edgemem.models.data import Frames, to_float
from edgemem.models.prototypes.losses import cosines

PROJECTION_SIZE = 128  # the released code's head is 512-512-128


class PrototypeModel(nn.Module):
    """An encoder, one prototype per class, and a projection head that only training uses.

    It starts without classes; `learn_task` gives a copy that knows more. A frame is of the class
    whose prototype has the largest cosine with its feature.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_size: int,
        projection_size: int = PROJECTION_SIZE,
        seed: int = 0,
    ) -> None:
        """Build around an encoder.

        encoder: frames [n, ...] float32 -> features [n, feature_size]. What of it needs no gradient
        stays as it is. seed: of the projection head.
        """
        super().__init__()
        self.encoder = encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Sequential(
                nn.Linear(feature_size, feature_size),
                nn.ReLU(),
                nn.Linear(feature_size, projection_size),
            )
        self.prototypes = nn.ParameterList()
        self.tasks: tuple[tuple[int, ...], ...] = ()
        self.feature_size = feature_size

    @property
    def classes(self) -> tuple[int, ...]:
        """Labels of all classes, in the order they were learnt: columns of `forward`."""
        return tuple(label for task in self.tasks for label in task)

    def with_task(self, classes: Sequence[int], seed: int = 0) -> PrototypeModel:
        """A copy with untrained prototypes for a task of new classes; this model stays as it is.

        Prototypes start as rows of a linear layer do in torch, as in the released code.

        Raises:
            InputError: no classes, one twice, or one that is known already.
        """
        labels = tuple(int(label) for label in classes)
        thing = "classes of the task"
        if not labels or len(set(labels)) < len(labels):
            raise InputError(thing, f"are {list(labels)}", "Name each class once")
        if known := sorted(set(labels) & set(self.classes)):
            raise InputError(
                thing,
                f"hold {known}, learnt in an earlier task",
                "Pass frames of new classes only",
            )
        twin = copy.deepcopy(self)
        bound = self.feature_size**-0.5
        generator = torch.Generator().manual_seed(seed)
        rows = torch.empty(len(labels), self.feature_size).uniform_(
            -bound, bound, generator=generator
        )
        twin.prototypes.append(nn.Parameter(rows.to(self.device)))
        twin.tasks = (*self.tasks, labels)
        return twin

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.projection.parameters()).device

    def features(self, x: Tensor) -> Tensor:
        """Frames [n, ...] float32 -> features [n, feature_size].

        Raises:
            InputError: the encoder gives something else.
        """
        features = self.encoder(x)
        expected = (len(x), self.feature_size)
        if not isinstance(features, Tensor) or features.shape != expected:
            given = list(features.shape) if isinstance(features, Tensor) else type(features)
            raise InputError(
                "encoder",
                f"gives {given}, not features {list(expected)}",
                "Flatten its output to one vector per frame, and pass its size as feature_size",
            )
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, ...] float32 -> cosines [n, classes], columns as in `classes`.

        Raises:
            InputError: no class was learnt, or the encoder gives no features.
        """
        if not self.tasks:
            raise InputError("model", "knows no class yet", "Call learn_task first")
        return cosines(self.features(x), torch.cat(list(self.prototypes)))

    def predict(
        self, frames: Frames, among: Sequence[int] | None = None, batch_size: int = 256
    ) -> NDArray[np.int64]:
        """Labels [n] of frames [n, ...] (uint8 is divided by 255), in eval mode.

        among: labels to choose from, such as `model.tasks[0]` (task-incremental); None = all that
        are known (class-incremental).

        Raises:
            InputError: a label that is not known, no class at all, or an encoder without features.
        """
        labels = np.asarray(self.classes, np.int64)
        chosen = labels if among is None else np.asarray(among, np.int64)
        if len(chosen) == 0 or not np.isin(chosen, labels).all():
            raise InputError(
                f"classes {chosen.tolist()}",
                f"are not among the {len(labels)} that were learnt",
                "Choose from model.classes",
            )
        if len(frames) == 0:
            return np.empty(0, np.int64)
        columns = np.flatnonzero(np.isin(labels, chosen))
        with evaluating(self), torch.no_grad():
            batches = [
                self(to_float(frames[start : start + batch_size].copy()).to(self.device)).cpu()
                for start in range(0, len(frames), batch_size)
            ]
        best: NDArray[np.int64] = torch.cat(batches).numpy()[:, columns].argmax(1)
        return labels[columns[best]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While active, every module is in eval mode; afterwards each is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
