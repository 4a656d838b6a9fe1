"""Models by their names in public packages: `timm:NAME` and `torchvision:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgemem.errors import InputError, MissingExtraError
from edgemem.models.checkpoints.checkpoint import read_checkpoint
from edgemem.models.checkpoints.state_search import states
from edgemem.models.given_models.factory import called, named_arguments

PACKAGES = {"timm": "timm", "torchvision": "torchvision.models"}
CLASSES = "num_classes"
LAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def is_named(target: str) -> bool:
    """Whether a target is of a package that makes models by name."""
    return target.partition(":")[0] in PACKAGES


def named_model(
    target: str, arguments: Sequence[str], checkpoint: Path, say: Callable[[str], None]
) -> nn.Module:
    """A model of a public package, with as many classes as the checkpoint has.

    Its weights are not downloaded. say: is given what its own weights expect of frames.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: no such name, or wrong arguments.
    """
    package, _, name = target.partition(":")
    make = _maker(package)
    given = {"pretrained" if package == "timm" else "weights": False if package == "timm" else None}
    given |= named_arguments(arguments)
    _check_name(package, name)

    def build(**more: Any) -> nn.Module:
        return called(target, lambda **a: make(name, **a), {**given, **more})

    model = build()
    count = None if CLASSES in given else _classes_in(checkpoint, model)
    if count is not None:
        model = build(**{CLASSES: count})
    about = getattr(model, "pretrained_cfg", None) or {}
    size = about.get("input_size")
    if isinstance(size, (tuple, list)):
        model.input_shape = tuple(size)  # type: ignore[assignment]
    if "mean" in about and "std" in about:
        mean, deviation = (",".join(f"{v:g}" for v in about[key]) for key in ("mean", "std"))
        say(f"timm's own weights of {name} expect --mean {mean} --std {deviation}")
    return model


def _maker(package: str) -> Callable[..., Any]:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, package)
    try:
        module = importlib.import_module(PACKAGES[package])
    except Exception as error:  # a package that does not fit torch fails in any way
        raise InputError(
            f"--model {package}:…",
            f"needs {package}, which cannot be imported ({error})",
            "Install the one that belongs to your version of torch, from the same index",
        ) from error
    make: Callable[..., Any] = module.create_model if package == "timm" else module.get_model
    return make


def _check_name(package: str, name: str) -> None:
    import difflib

    module = importlib.import_module(PACKAGES[package])
    known: list[str] = module.list_models()
    plain = name.partition(".")[0]  # timm names weights after a dot
    if plain not in known:
        near = difflib.get_close_matches(plain, known, n=4) or known[:4]
        raise InputError(
            f"--model {package}:{name}",
            f"is no model of {package}",
            f"Use one such as {', '.join(near)}",
        )


def _classes_in(checkpoint: Path, model: nn.Module) -> int | None:
    """Rows of the last layer's weight in a checkpoint, where they are not those of the model."""
    last = [name for name, m in model.named_modules() if isinstance(m, LAST_LAYERS)]
    if not last:
        return None
    key = f"{last[-1]}.weight"
    own = model.state_dict()[key]
    for _, state in states(read_checkpoint(checkpoint)):
        for name, value in state.items():
            if name == key or name.endswith(f".{key}"):
                return _other_count(value, own)
    return None


def _other_count(found: Tensor, own: Tensor) -> int | None:
    fits = found.dim() == own.dim() and found.shape[1:] == own.shape[1:]
    return len(found) if fits and len(found) != len(own) else None
