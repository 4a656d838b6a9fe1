"""Folders of Hugging Face transformers: config.json and weights in safetensors."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from edgemem.bundle.further_input import InputSpec
from edgemem.errors import CheckpointError, MissingExtraError
from edgemem.files.typed_json import read_json
from edgemem.files.untrusted import read_bounded
from edgemem.models.adaptive.attachment import Normalization

MOST_TEXT = 1 << 24  # bytes of a file of JSON
MOST_LABELS = 1 << 16
INPUTS = ("pixel_values", "input_values", "input_features")
IDS, MASK = "input_ids", "attention_mask"
WHOLE = 255.0  # a frame of 1.0 is a picture of 255
SLACK = 1.1  # buffers beside the weights
SAVE = "Save it again where it was made: model.save_pretrained(folder)"


@dataclass(frozen=True)
class Folder:
    """What a folder holds. normalization: of frames between 0 and 1; None = none is known."""

    network: nn.Module
    input_shape: tuple[int, ...] | None
    normalization: Normalization | None
    labels: tuple[str, ...] | None


def load_folder(path: Path, tokens: tuple[int, ...] | None = None) -> Folder:
    """A model in eval mode, and what its folder says of frames and classes.

    One of text takes token ids as frames, and a mask beside them. tokens: shape of one frame.

    No code of the folder is run, and nothing is unpickled or downloaded.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: no weights in safetensors, an architecture that transformers does not have,
            takes neither frames nor token ids, or that the weights do not fit.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "hf")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise _wrong(
            path, "holds no weights in safetensors; running code from pickles is not safe", SAVE
        )
    network = _network(path, _config(path), files)
    about = _preprocessor(path)
    if network.main_input_name == IDS:
        _say_of_text(network, tokens)
    return Folder(
        network, _input_shape(network, about), _normalization(path, about), _labels(network)
    )


def _say_of_text(network: nn.Module, tokens: tuple[int, ...] | None) -> None:
    """What a model of text takes: ids of its vocabulary, and which of them are no filler."""
    config: Any = network.config
    network.ids = (0, int(config.vocab_size) - 1)  # type: ignore[assignment]
    if tokens is not None:
        mask = InputSpec(MASK, "int64", tokens)
        network.beside = (mask,)  # type: ignore[assignment]


def _wrong(path: Path, reason: str, remedy: str = SAVE) -> CheckpointError:
    return CheckpointError(str(path), reason, remedy)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _config(path: Path) -> Any:
    from transformers import AutoConfig

    read_bounded(path / "config.json", MOST_TEXT, CheckpointError)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of what others wrote, in every way
        raise _wrong(path, f"has a config.json that cannot be read ({_line(error)})") from error


def _network(path: Path, config: Any, files: list[Path]) -> nn.Module:
    import transformers

    named = getattr(config, "architectures", None) or [""]
    name = str(named[0])
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise _wrong(path, f"names the architecture {name!r}, which transformers does not have")
    if kind.main_input_name not in (*INPUTS, IDS):
        raise _wrong(
            path, f"holds a {name}, which takes {kind.main_input_name}, not frames or token ids",
            "Use a model of images, sound or text",
        )  # fmt: skip
    _check_size(path, kind, config, files)
    try:
        loaded: Any = kind.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True,
            trust_remote_code=False, output_loading_info=True, dtype=torch.float32,
            attn_implementation="eager",
        )  # fmt: skip
    except Exception as error:  # of what others wrote, in every way
        raise _wrong(
            path, f"has weights that do not fit its config.json ({_line(error)})"
        ) from error
    model, about = loaded
    missing = sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]]))
    if missing:
        raise _wrong(
            path, f"lacks {len(missing)} weights of a {name} (such as {missing[0]!r})",
            "Train the whole model, and save it again",
        )  # fmt: skip
    found: nn.Module = model.eval()
    return found


def _check_size(path: Path, kind: Any, config: Any, files: list[Path]) -> None:
    """Refuse sizes of a config.json of which the weights hold nothing, before memory is taken."""
    try:
        with torch.device("meta"):
            wanted = sum(p.numel() for p in kind(config).parameters())
    except Exception as error:  # of what others wrote, in every way
        raise _wrong(path, f"has a config.json of no model ({_line(error)})") from error
    held = 0
    for file in files:
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                held += sum(math.prod(opened.get_slice(n).get_shape()) for n in opened.keys())  # noqa: SIM118
        except Exception as error:  # damaged
            raise _wrong(
                file, f"is not a readable safetensors file ({error})", "Get a fresh copy"
            ) from error
    if wanted > SLACK * held:
        raise _wrong(path, f"describes {wanted:,} weights, and its files hold {held:,}")


def _preprocessor(path: Path) -> dict[str, Any]:
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return {}
    text = read_bounded(file, MOST_TEXT, CheckpointError)
    found = read_json(text, str(file), CheckpointError, "Remove it, and pass --mean and --std")
    return {name: value.plain for name, value in found.object().items()}


def _input_shape(network: nn.Module, about: dict[str, Any]) -> tuple[int, ...] | None:
    """Channels, height and width, as the model or its preprocessor says."""
    config: Any = network.config
    channels = getattr(config, "num_channels", None)
    if not isinstance(channels, int):
        return None
    found = about.get("crop_size") if about.get("do_center_crop") else about.get("size")
    for size in (getattr(config, "image_size", None), found):
        pair = _height_and_width(size)
        if len(pair) == 2 and all(isinstance(side, int) and 0 < side < 1 << 16 for side in pair):
            return (channels, *pair)
    return None


def _height_and_width(size: Any) -> tuple[Any, ...]:
    if isinstance(size, dict):
        return (size.get("height"), size.get("width"))
    return (size, size) if isinstance(size, int) else tuple(size or ())


def _normalization(path: Path, about: dict[str, Any]) -> Normalization | None:
    """What `(255 frame · factor - offset - mean) / deviation` does to frames between 0 and 1."""
    if "image_mean" not in about and not about.get("do_rescale"):
        return None  # of sound, whose recordings are normalised each by itself; or nothing is said
    factor = about.get("rescale_factor", 1 / WHOLE) if about.get("do_rescale", True) else 1.0
    offset = 1.0 if about.get("rescale_offset") else 0.0
    plain = not about.get("do_normalize", True)
    mean, deviation = ([0.0], [1.0]) if plain else (about.get("image_mean"), about.get("image_std"))
    try:
        scale = WHOLE * float(factor)
        means = tuple((float(m) + offset) / scale for m in mean)  # type: ignore[union-attr]
        deviations = tuple(float(d) / scale for d in deviation)  # type: ignore[union-attr]
        if not all(map(math.isfinite, (*means, *deviations))) or min(deviations) <= 0:
            raise ValueError("numbers that are not finite, or a deviation that is not positive")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise _wrong(
            path / "preprocessor_config.json", f"has no mean and deviation ({error})",
            "Correct it, or remove it and pass --mean and --std",
        ) from error  # fmt: skip
    if set(means) == {0.0} and set(deviations) == {1.0}:
        return None
    return Normalization(means, deviations)


def _labels(network: nn.Module) -> tuple[str, ...] | None:
    """Class names of id2label; None where they are the numbers that transformers invents."""
    config: Any = network.config
    names = getattr(config, "id2label", None)
    if not isinstance(names, dict) or not 0 < len(names) <= MOST_LABELS:
        return None
    found = tuple(str(names.get(number, "")) for number in range(len(names)))
    invented = all(name == f"LABEL_{number}" for number, name in enumerate(found))
    return None if invented or "" in found or len(set(found)) < len(found) else found
