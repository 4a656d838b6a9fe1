"""Files of prototype models: all arrays and the classes, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from edgemem.errors import CheckpointError, EdgeMemError
from edgemem.files.typed_json import Value, read_json
from edgemem.models.adaptive.attachment import Normalization
from edgemem.models.checkpoints.checkpoint import has_format, read_tensors, write_tensors
from edgemem.models.prototypes.encoder import Encoder, EncoderSettings
from edgemem.models.prototypes.model import PrototypeModel

FORMAT = "edgemem-prototypes-1"
LONGEST = 1 << 16  # characters of what a model was made from
MOST_SIZE = 1 << 16


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

    def about(name: str) -> Value:
        text, thing = metadata.get(name, "").encode(), f"{path}: {name}"
        return read_json(text, thing, CheckpointError, "Run train-prototypes again")

    settings = _settings(about("encoder"))
    tasks = [tuple(label.count() for label in task.list(least=1)) for task in about("tasks").list()]
    source = {name: value.text(LONGEST) for name, value in about("source").object().items()}
    projection = tensors.get("projection.2.weight", torch.zeros(0))
    if projection.ndim != 2 or 0 in projection.shape:
        reason = "is not a file of prototypes (it has no projection)"
        raise CheckpointError(str(path), reason, "Run train-prototypes again")
    try:
        model = PrototypeModel(Encoder(network, settings), *reversed(projection.shape))
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


def _settings(found: Value) -> EncoderSettings:
    given, normalization = found.field("normalization"), None
    if given.plain is not None:
        mean, deviation = (
            tuple(value.finite() for value in given.field(name).list())
            for name in ("mean", "deviation")
        )
        normalization = Normalization(mean, deviation)
    sizes = found.field("input_shape").list()
    shape = tuple(size.count(least=1, most=MOST_SIZE) for size in sizes)
    return EncoderSettings(found.field("head").text(), normalization, shape)
