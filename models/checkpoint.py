"""Checkpoints: reading other people's safely, and ours with what `attach` was told."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edgemem.errors import CheckpointError, InputError
from edgemem.files import explain_write_errors, write_file

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
SUFFIXES = (".safetensors", ".pt", ".th", ".pth", ".bin")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path), f"is not a readable safetensors file ({error})", "Get a fresh copy"
        ) from error


def has_format(path: Path, name: str) -> bool:
    """Whether a file is of ours, with that format in its metadata."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == name
    except safetensors.SafetensorError:
        return False


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, all or nothing."""
    # Clones, as the format refuses tensors that share memory (a layer under two names).
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(plain, metadata))


def check_writable(out: Path) -> None:
    """Refuse before hours of training what cannot be written after them.

    Raises:
        InputError: another ending than .safetensors, or no file can be written there.
    """
    if out.suffix != ".safetensors":
        raise InputError(str(out), "must end in .safetensors", "Rename it")
    with explain_write_errors(out):
        (out.parent / f".{out.name}.check").touch()
        (out.parent / f".{out.name}.check").unlink()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pt, .th or .pth file, without code execution.

    A wrapping `state_dict` (or `model`, `net`) and the prefix `module.` are removed.

    Raises:
        CheckpointError: missing, damaged, needs code to unpickle, or holds no state dict.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            str(path), f"has an unknown ending {path.suffix!r}", f"Use one of {', '.join(SUFFIXES)}"
        )
    loaded: Any = read_tensors(path)[0] if path.suffix == ".safetensors" else _unpickle(path)
    for _ in WRAPPERS:
        wrapper = next((w for w in WRAPPERS if isinstance(_get(loaded, w), dict)), None)
        if wrapper is None:
            break
        loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(
            str(path), "holds no state dict", "Save it with torch.save(model.state_dict(), path)"
        )
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_into(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model, exactly.

    Raises:
        CheckpointError: see `read_state_dict`; or names or shapes differ from the model's.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(state) - optional)
    unexpected = sorted(set(state) - set(own))
    wrong = [n for n in state if n in own and state[n].shape != own[n].shape]
    if missing or unexpected or wrong:
        described = [
            f"{len(names)} {what} (such as {names[0]!r})"
            for what, names in (("missing", missing), ("unknown", unexpected), ("misshapen", wrong))
            if names
        ]
        raise CheckpointError(
            str(path),
            f"does not fit {type(model).__name__}: {', '.join(described)}",
            "Pass the --model and --model-arg that this checkpoint was trained with",
        )
    model.load_state_dict(state, strict=False)


def _get(loaded: Any, key: str) -> Any:
    return loaded.get(key) if isinstance(loaded, dict) else None


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch rarely sees
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            str(path),
            "needs code to be unpickled, or is damaged; running code from a file is not safe",
            "Save the state dict alone: torch.save(model.state_dict(), path)",
        ) from error
    except Exception as error:  # damaged files make the unpickler fail in every way there is
        raise CheckpointError(str(path), f"cannot be read ({error})", "Get a fresh copy") from error


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(str(path), "does not exist", "Check the path")
