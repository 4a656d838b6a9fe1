"""Checkpoints of adaptive models, in one safetensors file.

All arrays, and what `attach` was told.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemem.errors import AttachError, CheckpointError
from edgemem.files.typed_json import Value, read_json
from edgemem.models.adaptive.adaptive_model import SOURCE, AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import Attachment, Normalization
from edgemem.models.adaptive.class_prototypes import ClassPrototypes
from edgemem.models.adaptive.meta_network import Form
from edgemem.models.checkpoints.checkpoint import has_format, read_tensors, write_tensors
from edgemem.models.sites.measuring import make_measured

FORMAT = "edgemem-checkpoint-1"
LONGEST = 1 << 16  # characters of what a model was made from
MOST_SIZE = 1 << 16


def save_adaptive(model: AdaptiveModel, path: Path, source: dict[str, str]) -> None:
    """Write an adaptive model.

    Args:
        model: as `attach` or a warm-up gives it.
        path: the file to write.
        source: what it was made from (names and hashes), kept as it is.

    Raises:
        CheckpointError: the model takes more than float32 frames.
    """
    if not model.attachment.plain:
        raise CheckpointError(
            str(path),
            "has no place for inputs beside the frames, or token ids",
            "Export the model at once: export_bundle(model, path)",
        )
    metadata = {
        "format": FORMAT,
        "warm": json.dumps(model.warm),
        "attachment": json.dumps(asdict(model.attachment)),
        "labels": json.dumps(model.labels),
        "source": json.dumps(source),
    }
    write_tensors(path, dict(model.state_dict()), metadata)


def is_adaptive(path: Path) -> bool:
    """Whether the file was written by `save_adaptive`."""
    return has_format(path, FORMAT)


def load_adaptive(path: Path, model: nn.Module) -> tuple[AdaptiveModel, dict[str, str]]:
    """Read an adaptive model; `model` gives the architecture, its weights are not used.

    Returns the adaptive model and its source.

    Raises:
        CheckpointError: damaged, or of another architecture.
    """
    tensors, metadata = read_tensors(path)

    def about(name: str) -> Value:
        text, thing = metadata.get(name, "").encode(), f"{path}: {name}"
        return read_json(text, thing, CheckpointError, "Run the warm-up again")

    attachment, warm, labels = (
        _attachment(about("attachment")),
        about("warm").flag(),
        about("labels"),
    )
    names = None if labels.plain is None else tuple(label.text() for label in labels.list())
    source = {name: value.text(LONGEST) for name, value in about("source").object().items()}
    try:
        adaptive = _attached(model, attachment, tensors)
    except (AttachError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path),
            f"does not fit {type(model).__name__}",
            "Pass the --model and --model-arg that it was warmed up with",
        ) from error
    if names is not None and len(names) != adaptive.classes:
        reason = f"names {len(names)} classes, and the model has {adaptive.classes}"
        raise CheckpointError(str(path), reason, "Run the warm-up again")
    adaptive.labels = names
    if warm:
        adaptive.mark_warm()
    return adaptive, source


def _attached(
    model: nn.Module, attachment: Attachment, tensors: dict[str, torch.Tensor]
) -> AdaptiveModel:
    """The model with all that the file holds of it."""
    adaptive = attach(
        model,
        attachment.parts,
        torch.zeros(2, *attachment.input_shape),
        statistics=attachment.statistics,
        form=attachment.form,
        norm_affine=attachment.norm_affine,
        normalization=attachment.normalization,
        outputs=attachment.outputs if attachment.task == "classes" else None,
        sites=attachment.sites,
        task=attachment.task,
    )
    if attachment.measured:
        make_measured(adaptive)
    adaptive.attachment = replace(
        adaptive.attachment,
        measured=attachment.measured,
        remembered_alpha=attachment.remembered_alpha,
    )
    for name in SOURCE:
        setattr(adaptive, name, tensors.get(name))
    if "prototypes.source" in tensors:
        held = [tensors[f"prototypes.{name}"] for name in ("center", "whitening", "source")]
        adaptive.prototypes = ClassPrototypes(*held)
    adaptive.load_state_dict(tensors)
    return adaptive


def _attachment(found: Value) -> Attachment:
    form, given = found.field("form"), found.field("normalization")
    normalization = None
    if given.plain is not None:
        mean, deviation = (
            tuple(value.finite() for value in given.field(name).list())
            for name in ("mean", "deviation")
        )
        normalization = Normalization(mean, deviation)
    statistics: Any = found.field("statistics")
    weighs = not isinstance(statistics.plain, str)
    return Attachment(
        tuple(part.text() for part in found.field("parts").list()),
        statistics.share() if weighs else statistics.text(),
        Form(**{name: form.field(name).count() for name in vars(Form())}),
        found.field("norm_affine").flag(),
        normalization,
        tuple(size.count(least=1, most=MOST_SIZE) for size in found.field("input_shape").list()),
        found.field("outputs").text(),  # type: ignore[arg-type]
        tuple(site.text() for site in found.field("sites").list()),
        found.field("measured").flag(),
        found.field("remembered_alpha").share(),
        found.field("task").text(),  # type: ignore[arg-type]
    )
