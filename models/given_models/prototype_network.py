"""What `edgemem train-prototypes` wrote as a classifier: the nearest prototype answers."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemem.errors import CheckpointError
from edgemem.files.typed_json import read_json
from edgemem.models.checkpoints.checkpoint import read_tensors
from edgemem.models.prototypes.prototype_checkpoint import load_prototypes

SHARPNESS = 10.0  # one over the temperature of training, by which cosines become logits


class PrototypeClassifier(nn.Module):
    """Frames [n, ...] -> logits [n, classes], the largest for the nearest prototype.

    Features of length one go through a linear layer, whose rows are the prototypes: cosines.
    """

    def __init__(self, encoder: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.prototypes = nn.Linear(prototypes.shape[1], len(prototypes), bias=False)
        self.prototypes.weight.data = SHARPNESS * F.normalize(prototypes, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, ...] float32 -> [n, classes]."""
        logits: Tensor = self.prototypes(F.normalize(self.encoder(x), dim=1))
        return logits


def recorded_target(path: Path) -> tuple[str, list[str]]:
    """The model and its arguments that a file of ours was made with, empty where it is silent."""
    _, metadata = read_tensors(path)
    text = metadata.get("source", "{}").encode()
    source = read_json(text, f"{path}: source", CheckpointError, "Make it again").object()
    model, arguments = (
        str(source[name].plain) if name in source else "" for name in ("model", "model_arguments")
    )
    return model, [pair for pair in arguments.split(", ") if pair]


def prototype_network(
    path: Path, network: nn.Module
) -> tuple[PrototypeClassifier, tuple[str, ...]]:
    """The classifier of a file, and the numbers of its classes as their names.

    network: the architecture; its weights are not used.

    Raises:
        CheckpointError: see `load_prototypes`; or it knows fewer than two classes.
    """
    model, settings, _ = load_prototypes(path, network)
    if len(model.classes) < 2:
        raise CheckpointError(str(path), "knows fewer than two classes", "Learn more of them first")
    prototypes = torch.cat([rows.detach() for rows in model.prototypes])
    found = PrototypeClassifier(model.encoder, prototypes).eval()
    found.input_shape = settings.input_shape  # type: ignore[assignment]
    return found, tuple(map(str, model.classes))
