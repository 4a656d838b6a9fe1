"""Files of prototype models: all arrays and the classes, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from edgemem.errors import CheckpointError, EdgeMemError
from edgemem.models.adaptive import Normalization
from edgemem.models.checkpoint import has_format, read_tensors, write_tensors
from edgemem.models.prototypes.encoder import Encoder, EncoderSettings
from edgemem.models.prototypes.model import PrototypeModel

FORMAT = "edgemem-prototypes-1"


def save_prototypes(
    model: PrototypeModel, path: Path, settings: EncoderSettings, source: dict[str, str]
) -> None:
    """Write a model whose encoder was made with `settings`.

    source: what it was made from (names and hashes), kept as it is.

    Raises:
        InputError: the path cannot be written.
    """
    metadata = {
        "format": FORMAT,
        "tasks": json.dumps(model.tasks),
        "encoder": json.dumps(asdict(settings)),
        "source": json.dumps(source),
    }
    write_tensors(path, dict(model.state_dict()), metadata)


def is_prototypes(path: Path) -> bool:
    """Whether the file was written by `save_prototypes`."""
    return has_format(path, FORMAT)


def load_prototypes(
    path: Path, network: nn.Module
) -> tuple[PrototypeModel, EncoderSettings, dict[str, str]]:
    """Read a model; `network` gives the architecture, its weights are not used.

    Returns the model in eval mode, how its encoder was made, and its source.

    Raises:
        CheckpointError: damaged, or of another architecture.
    """
    tensors, metadata = read_tensors(path)
    try:
        settings = _settings(json.loads(metadata["encoder"]))
        tasks = [tuple(int(label) for label in task) for task in json.loads(metadata["tasks"])]
        source = json.loads(metadata["source"])
        projection, size = tensors["projection.2.weight"].shape
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            str(path), f"is not a file of prototypes ({error})", "Run train-prototypes again"
        ) from error
    try:
        model = PrototypeModel(Encoder(network, settings), size, projection)
        for task in tasks:
            model = model.with_task(task)
        model.load_state_dict(tensors)
    except (EdgeMemError, RuntimeError) as error:
        raise CheckpointError(
            str(path),
            f"does not fit {type(network).__name__}",
            "Pass the --model and --model-arg that it was trained with",
        ) from error
    return model.eval(), settings, source


def _settings(fields: dict[str, Any]) -> EncoderSettings:
    given = fields["normalization"]
    normalization = given and Normalization(tuple(given["mean"]), tuple(given["deviation"]))
    return EncoderSettings(str(fields["head"]), normalization, tuple(fields["input_shape"]))
