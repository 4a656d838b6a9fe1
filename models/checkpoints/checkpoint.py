"""Checkpoints: reading other people's safely, and ours with what `attach` was told."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edgemem.errors import CheckpointError, InputError
from edgemem.files.atomic import explain_write_errors, write_file
from edgemem.files.untrusted import require_file
from edgemem.models.checkpoints.checkpoint_kinds import harmless, is_whole_model, kind_of
from edgemem.models.checkpoints.state_search import differences, matches, nearest, states


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: missing or damaged.
    """
    require_file(path, CheckpointError)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except Exception as error:  # beside damage, types that torch does not know
        raise CheckpointError(
            str(path), f"is not a readable safetensors file ({error})", "Get a fresh copy"
        ) from error


def has_format(path: Path, name: str) -> bool:
    """Whether a file is of ours, with that format in its metadata."""
    if not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == name
    except Exception:  # noqa: BLE001 - whoever reads it says what is wrong
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


@dataclass(frozen=True)
class Taken:
    """Which weights of a file were taken.

    Attributes:
        plain: whether the file holds nothing else.
        others: what else there matches the model, too.
    """

    name: str
    plain: bool
    others: tuple[str, ...]

    def __str__(self) -> str:
        beside = f"; also there, not taken: {', '.join(self.others)}" if self.others else ""
        return f"took {self.name}{beside}"


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds: tensors by name, or dicts of such, without code execution.

    The content decides how it is read, not the ending.

    Raises:
        CheckpointError: missing, damaged, needs code to unpickle, is something else than a
            checkpoint of torch, or holds no tensors.
    """
    loaded: Any = read_tensors(path)[0] if kind_of(path) == "safetensors" else _unpickle(path)
    if next(states(loaded), None) is None:
        raise CheckpointError(
            str(path), "holds no state dict", "Save it with torch.save(model.state_dict(), path)"
        )
    return loaded


def load_into(model: nn.Module, path: Path) -> Taken:
    """Load a checkpoint into a model, exactly; says which of the weights in it were taken.

    Of all dicts in the file, with any prefix of names, the one is taken that matches all names and
    shapes of the model; where averaged weights (EMA, SWA) match as well, those that were trained.

    Raises:
        CheckpointError: see `read_checkpoint`; or names or shapes differ from the model's.
    """
    loaded, own = read_checkpoint(path), model.state_dict()
    found = matches(loaded, own)
    if not found:
        closest = nearest(loaded, own)
        names = ("missing", "unknown", "misshapen")
        described = [
            f"{len(differing)} {what} (such as {differing[0]!r})"
            for what, differing in zip(names, differences(closest or {}, own), strict=True)
            if differing
        ]
        raise CheckpointError(
            str(path),
            f"does not fit {type(model).__name__}: {', '.join(described)}",
            "Pass the --model and --model-arg that this checkpoint was trained with",
        )
    model.load_state_dict(found[0].state, strict=False)
    taken, *others = found
    return Taken(str(taken), taken.plain and not others, tuple(map(str, others)))


def _unpickle(path: Path) -> Any:
    try:
        # An open file, for torch.load decides by the ending of a path.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch rarely sees
            with torch.serialization.safe_globals(harmless()):
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _needs_code(path, error) from error
    except Exception as error:  # damaged files make the unpickler fail in every way there is
        raise CheckpointError(str(path), f"cannot be read ({error})", "Get a fresh copy") from error


def _needs_code(path: Path, error: Exception) -> CheckpointError:
    remedy = "Save the state dict alone, where it was made: torch.save(model.state_dict(), path)"
    if is_whole_model(path):
        return CheckpointError(
            str(path),
            "is a whole model, pickled as an object, which needs code to be unpickled; running "
            "code from a file is not safe",
            remedy,
        )
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({named[1]})" if named else ""
    return CheckpointError(
        str(path),
        f"needs code to be unpickled{what}, or is damaged; running code from a file is not safe",
        remedy,
    )
