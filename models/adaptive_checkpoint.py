"""Checkpoints of adaptive models: all arrays, and what `attach` was told, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemem.errors import AttachError, CheckpointError
from edgemem.models.adaptive import SOURCE, AdaptiveModel, Attachment, Normalization
from edgemem.models.attach import attach
from edgemem.models.checkpoint import has_format, read_tensors, write_tensors
from edgemem.models.class_prototypes import ClassPrototypes
from edgemem.models.meta_network import Form

FORMAT = "edgemem-checkpoint-1"


def save_adaptive(model: AdaptiveModel, path: Path, source: dict[str, str]) -> None:
    """Write an adaptive model.

    source: what it was made from (names and hashes), kept as it is.
    """
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
    try:
        attachment = _attachment(json.loads(metadata["attachment"]))
        source, warm = json.loads(metadata["source"]), json.loads(metadata["warm"])
        labels = json.loads(metadata["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            str(path), f"has unreadable metadata ({error})", "Run the warm-up again"
        ) from error
    try:
        adaptive = attach(
            model,
            attachment.parts,
            torch.zeros(2, *attachment.input_shape),
            statistics=attachment.statistics,
            form=attachment.form,
            norm_affine=attachment.norm_affine,
            normalization=attachment.normalization,
            outputs=attachment.outputs,
        )
        for name in SOURCE:
            setattr(adaptive, name, tensors.get(name))
        if "prototypes.source" in tensors:
            held = [tensors[f"prototypes.{name}"] for name in ("center", "whitening", "source")]
            adaptive.prototypes = ClassPrototypes(*held)
        adaptive.load_state_dict(tensors)
    except (AttachError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            str(path),
            f"does not fit {type(model).__name__}",
            "Pass the --model and --model-arg that it was warmed up with",
        ) from error
    adaptive.labels = None if labels is None else tuple(labels)
    if warm:
        adaptive.mark_warm()
    return adaptive, source


def _attachment(data: dict[str, Any]) -> Attachment:
    normalization = data["normalization"]
    return Attachment(
        tuple(data["parts"]),
        data["statistics"],
        Form(**data["form"]),
        data["norm_affine"],
        None
        if normalization is None
        else Normalization(tuple(normalization["mean"]), tuple(normalization["deviation"])),
        tuple(data["input_shape"]),
        data["outputs"],
    )
