"""What `edgemem warmup` and `edgemem export` share: from text on the command line to a model."""

from __future__ import annotations

import ast
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemem.errors import AttachError, InputError
from edgemem.files.atomic import sha256_file
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import Normalization, Statistics
from edgemem.models.adaptive.meta_network import Form
from edgemem.models.adaptive.parts import split_parts
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive, load_adaptive
from edgemem.models.checkpoints.checkpoint import load_into
from edgemem.printable import shown

Say = Callable[[str], None]
MOST_VALUES = 1 << 26  # of one frame
MOST_THREADS = 1024


@dataclass(frozen=True)
class AttachSettings:
    """Options of `attach` as text; None = not given.

    norm_affine: None = what the step can train.
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


def build_model(target: str, arguments: Sequence[str]) -> nn.Module:
    """Import `package.module:factory` and call it with name=value arguments.

    Raises:
        InputError: no such module or factory, wrong arguments, or no torch module comes out.
    """
    module_name, _, factory_name = target.partition(":")
    example = "Write it as package.module:factory"
    if not module_name or not factory_name:
        raise InputError(f"--model {target!r}", "is not a target", example)
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own module, in the folder where they are
    try:
        factory: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own module, which may fail in any way
        raise InputError(f"--model {target!r}", f"cannot be imported ({error})", example) from error
    for name in factory_name.split("."):
        factory = getattr(factory, name, None)
    if not callable(factory):
        raise InputError(f"--model {target!r}", f"has no callable {factory_name!r}", example)
    try:
        model = factory(**_arguments(arguments))
    except Exception as error:  # the user's own factory
        raise InputError(
            f"--model {target!r}", f"cannot be called ({error})", "Pass --model-arg name=value"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {target!r}", f"gives a {type(model).__name__}", example)
    return model.eval()


def set_threads(threads: int) -> None:
    """Let torch use so many threads; 0 = its choice.

    Raises InputError where there are no such many.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise InputError(
            f"--threads {shown(threads)}", "is out of range", f"Use 0 to {MOST_THREADS}"
        )
    if threads:
        torch.set_num_threads(threads)


def load_weights(model: nn.Module, checkpoint: Path, say: Say) -> None:
    """`load_into`, which says what it took where the file holds more than one state dict."""
    taken = load_into(model, checkpoint)
    if not taken.plain:
        say(f"{checkpoint.name}: {taken}")


def load_model(
    checkpoint: Path,
    target: str,
    arguments: Sequence[str],
    settings: AttachSettings,
    say: Say = lambda line: None,
) -> tuple[AdaptiveModel, dict[str, str]]:
    """An adaptive model from any checkpoint, and what it was made from.

    A checkpoint of `edgemem warmup` brings its own parts and statistics; another one is attached
    with the given settings. say: is given a line about what was taken from the checkpoint, where
    there is more than a plain state dict.

    Raises:
        CheckpointError, AttachError, InputError: see `load_into`, `attach`, `build_model`.
    """
    model = build_model(target, arguments)
    if is_adaptive(checkpoint):
        adaptive, source = load_adaptive(checkpoint, model)
        _refuse_conflict(checkpoint, adaptive, settings, model)
        if settings.norm_affine:
            adaptive.add_norm_affine()
        return adaptive, source
    load_weights(model, checkpoint, say)
    if settings.parts is None and not settings.norm_affine:
        raise AttachError(
            "--parts",
            "is missing, and this checkpoint was not warmed up",
            f"Name parts of the model, such as {', '.join(_suggestions(model))}",
        )
    shape = input_shape_of(model, settings)
    adaptive = attach(
        model,
        split_parts(settings.parts or ""),
        torch.zeros(2, *shape),
        statistics=_statistics(settings.statistics),
        form=Form(settings.kernel_size, settings.bottleneck, settings.groups),
        norm_affine=bool(settings.norm_affine),
        normalization=normalization_of(settings, shape[0]),
    )
    source = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_file(checkpoint),
        "model": target,
        "model_arguments": ", ".join(arguments),
    }
    return adaptive, source


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"{pair!r} is not name=value")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values[name] = text
    return values


def input_shape_of(model: nn.Module, settings: AttachSettings) -> tuple[int, ...]:
    """Shape of one frame: as given, or as the model tells.

    Raises:
        InputError: not numbers, or not known.
    """
    if settings.input_shape is not None:
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
    own = getattr(model, "input_shape", None)
    if isinstance(own, (tuple, list)):
        return tuple(own)
    config = getattr(model, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if isinstance(channels, int) and isinstance(size, int):
        return (channels, size, size)
    raise InputError(
        "--input-shape", "is missing, and the model does not tell", "Pass it, such as 3,224,224"
    )


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


def _statistics(text: str | None) -> Statistics:
    if text is None:
        return "mix"
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
    given = {
        "--parts": settings.parts is not None and tuple(split_parts(settings.parts)) != own.parts,
        "--statistics": settings.statistics is not None
        and _statistics(settings.statistics) != own.statistics,
        "--input-shape": settings.input_shape is not None
        and input_shape_of(model, settings) != own.input_shape,
        "--mean/--std": (settings.mean or settings.std) is not None
        and normalization_of(settings, own.input_shape[0]) != own.normalization,
    }
    for option, conflicts in given.items():
        if conflicts:
            raise InputError(
                option,
                f"differs from what {checkpoint.name} was warmed up with",
                "Leave it out, or warm up again",
            )


def _suggestions(model: nn.Module) -> list[str]:
    containers = [
        name for name, child in model.named_modules() if isinstance(child, nn.Sequential) and name
    ]
    return containers[:4] or [name for name, _ in model.named_children()][:4]
