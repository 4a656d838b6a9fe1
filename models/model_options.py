"""What `edgemem warmup` and `edgemem export` share: from text on the command line to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgemem.bundle.manifest import CLASSES
from edgemem.errors import AttachError, InputError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import Normalization, Statistics
from edgemem.models.adaptive.meta_network import Form
from edgemem.models.adaptive.model_inputs import example_of
from edgemem.models.adaptive.parts import split_parts
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive, load_adaptive
from edgemem.models.data import load_beside, load_frames
from edgemem.models.given_models.factory import Say
from edgemem.models.given_models.given import Given, given_model
from edgemem.models.inspection.part_names import suggested_parts
from edgemem.models.sites.aligned_model import align
from edgemem.models.sites.choosing import ChosenSites
from edgemem.models.tasks.task_outputs import AUTO
from edgemem.models.tensor_rows import (
    frames_of,
    known_beside,
    others_of,
    parameters_beside,
)

MOST_VALUES = 1 << 26  # of one frame


@dataclass(frozen=True)
class AttachSettings:
    """Options of `attach` as text; None = not given.

    norm_affine: None = what the step can train. source: frames of the source. sites: names of
    layers, "none", or None = those that gain.
    """

    parts: str | None
    statistics: str | None = None
    input_shape: str | None = None
    mean: str | None = None
    std: str | None = None
    kernel_size: int = 3
    bottleneck: int = 0
    groups: int = 1
    norm_affine: bool | None = False
    source: Path | None = None
    frames_input: str | None = None
    sites: str | None = None
    task: str = AUTO
    sizes: str | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the outputs are, or may be, logits of classes."""
        return self.task in (AUTO, CLASSES)


def load_model(
    checkpoint: Path,
    target: str | None,
    arguments: Sequence[str],
    settings: AttachSettings,
    say: Say = lambda line: None,
    *,
    batch: int = 16,
    note: Say = lambda text: None,
) -> tuple[AdaptiveModel, dict[str, Any]]:
    """An adaptive model from any checkpoint, and what it was made from.

    A checkpoint of `edgemem warmup` brings its own parts and statistics; another one is attached
    with the given settings, or aligned on source frames where these are given. target: None where
    the checkpoint tells all, see `given_model`. say: is given a line about what was taken from the
    checkpoint, where there is more than a plain state dict. batch: frames in a step. note: is given
    a word about what is tried.

    Raises:
        CheckpointError, AttachError, InputError, MissingExtraError: see `given_model`, `attach`.
    """
    shape, asked, open_shape = _shape(settings), settings.frames_input, _of_source(settings)
    given = given_model(checkpoint, target, arguments, shape, say, asked, open_shape)
    model, settings = given.network, _completed(settings, given)
    if is_adaptive(checkpoint):
        adaptive, known = load_adaptive(checkpoint, model)
        _refuse_conflict(checkpoint, adaptive, settings, model)
        if settings.norm_affine:
            adaptive.add_norm_affine()
        return adaptive, known
    source: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": given.sha256,
        "model": given.model,
        "model_arguments": ", ".join(given.arguments),
    }
    if settings.source is not None:
        adaptive, chosen = aligned(model, settings, batch, note)
        adaptive.labels = given.labels
        return adaptive, source | {"alignment": None if chosen is None else asdict(chosen)}
    if settings.sites is not None:
        raise InputError("--sites", "needs source frames to measure on", "Pass --source too")
    if settings.parts is None and not settings.norm_affine and settings.told_apart:
        raise AttachError(
            "--source",
            "is missing, and this checkpoint was not warmed up",
            "Pass some hundreds of frames like those it was trained on, or name --parts of the "
            f"model, such as {', '.join(suggested_parts(model))}",
        )
    shape = input_shape_of(model, settings)
    example = example_of(model, shape)
    adaptive = attach(
        model,
        split_parts(settings.parts or ""),
        frames_of(example),
        statistics=_statistics(settings.statistics or _default_statistics(settings)),
        form=Form(settings.kernel_size, settings.bottleneck, settings.groups),
        norm_affine=bool(settings.norm_affine),
        normalization=normalization_of(settings, shape[0]),
        task=settings.task,  # type: ignore[arg-type]  # checked there
        inputs=others_of(example),
    )
    adaptive.labels = given.labels
    return adaptive, source


def aligned(
    model: nn.Module, settings: AttachSettings, batch: int, note: Say
) -> tuple[AdaptiveModel, ChosenSites | None]:
    """A model around the moments of the source frames that the settings name; see `align`.

    Raises:
        AttachError, InputError: see `align`, `load_frames`.
    """
    assert settings.source is not None
    if settings.parts is not None:
        raise InputError(
            "--parts and --source",
            "do not go together: without a warm-up, meta networks have learnt nothing",
            "Leave --parts out, or run edgemem warmup",
        )
    frames, labels = load_frames(settings.source, ids=True)
    needed = known_beside(model) is not None
    inputs = load_beside(settings.source, parameters_beside(model), needed=needed)
    shape = frames.shape[1:]
    if settings.input_shape is not None and input_shape_of(model, settings) != shape:
        raise InputError(
            f"{settings.source}: x",
            f"holds frames of {list(shape)}, and --input-shape says {settings.input_shape}",
            "Pass frames as the device will",
        )
    names, own = settings.sites or "auto", settings.statistics
    return align(
        model,
        frames,
        labels,
        sites="auto" if names == "auto" else () if names == "none" else split_parts(names),
        statistics="remembered" if own is None else _statistics(own),
        normalization=normalization_of(settings, shape[0]),
        norm_affine=bool(settings.norm_affine),
        task=settings.task,  # type: ignore[arg-type]
        batch=batch,
        note=note,
        inputs=inputs,
    )


def _completed(settings: AttachSettings, given: Given) -> AttachSettings:
    """The settings, with what a file says of frames where nothing else was given."""
    known = given.normalization
    if known is None or settings.mean is not None or settings.std is not None:
        return settings
    mean, deviation = (",".join(map(repr, values)) for values in (known.mean, known.deviation))
    return replace(settings, mean=mean, std=deviation)


def input_shape_of(model: nn.Module, settings: AttachSettings) -> tuple[int, ...]:
    """Shape of one frame: as given, or as the model tells.

    Raises:
        InputError: not numbers, or not known.
    """
    if (shape := _shape(settings)) is not None:
        return shape
    own = getattr(model, "input_shape", None)
    if isinstance(own, (tuple, list)):
        return tuple(own)
    config = getattr(model, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if isinstance(channels, int) and isinstance(size, int):
        return (channels, size, size)
    raise InputError(
        "--input-shape",
        "is missing, and the model does not tell",
        "Pass it, such as 3,224,224; of token ids their number, such as 128",
    )


def _of_source(settings: AttachSettings) -> Callable[[], tuple[int, ...]] | None:
    """What tells the shape of a source frame."""
    path = settings.source
    return None if path is None else lambda: load_frames(path, ids=True)[0].shape[1:]


def _shape(settings: AttachSettings) -> tuple[int, ...] | None:
    if settings.input_shape is None:
        return None
    try:
        shape = tuple(int(size) for size in settings.input_shape.split(","))
    except ValueError as error:
        raise InputError(
            f"--input-shape {settings.input_shape}", "is not numbers", "Write it as 3,32,32"
        ) from error
    if min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise InputError(
            f"--input-shape {settings.input_shape}",
            f"is not of 1 to {MOST_VALUES:,} values",
            "Write it as 3,32,32",
        )
    return shape


def normalization_of(settings: AttachSettings, channels: int) -> Normalization | None:
    """Mean and deviation per channel as given; None = neither was.

    Raises:
        InputError: not finite numbers, not one per channel, or a deviation that is not positive.
    """
    if settings.mean is None and settings.std is None:
        return None
    try:
        mean = tuple(float(v) for v in (settings.mean or "0").split(","))
        deviation = tuple(float(v) for v in (settings.std or "1").split(","))
    except ValueError as error:
        raise InputError("--mean or --std", "is not numbers", "Write 0.485,0.456,0.406") from error
    if len(mean) not in (1, channels) or len(deviation) not in (1, channels):
        raise InputError(
            "--mean or --std", f"does not fit {channels} channels", "Give one value per channel"
        )
    if not all(map(math.isfinite, (*mean, *deviation))):
        raise InputError("--mean or --std", "is not finite", "Write 0.485,0.456,0.406")
    if min(deviation) <= 0:
        raise InputError("--std", "must be positive", "Pass the deviation of the source data")
    return Normalization(mean, deviation)


def _default_statistics(settings: AttachSettings) -> str:
    """Without classes, what a block remembers is all that the default step moves."""
    return "mix" if settings.told_apart else "remembered"


def _statistics(text: str) -> Statistics:
    if text in ("source", "batch", "mix", "remembered"):
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"--statistics {text}",
            "is unknown",
            "Use source, batch, mix, remembered or a weight from 0 to 1",
        ) from error


def _refuse_conflict(
    checkpoint: Path, adaptive: AdaptiveModel, settings: AttachSettings, model: nn.Module
) -> None:
    own = adaptive.attachment
    if settings.source is not None:
        raise InputError(
            "--source",
            f"has no place: {checkpoint.name} was warmed up on source data",
            "Leave it out",
        )
    given = {
        "--parts": settings.parts is not None and tuple(split_parts(settings.parts)) != own.parts,
        "--statistics": settings.statistics is not None
        and _statistics(settings.statistics) != own.statistics,
        "--input-shape": settings.input_shape is not None
        and input_shape_of(model, settings) != own.input_shape,
        "--mean/--std": (settings.mean or settings.std) is not None
        and normalization_of(settings, own.input_shape[0]) != own.normalization,
        "--task": settings.task not in (AUTO, own.task),
    }
    for option, conflicts in given.items():
        if conflicts:
            raise InputError(
                option,
                f"differs from what {checkpoint.name} was warmed up with",
                "Leave it out, or warm up again",
            )
