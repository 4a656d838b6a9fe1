"""A model from code: `package.module:factory`, and the weights that a checkpoint has for it."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edgemem.errors import InputError
from edgemem.models.checkpoints.checkpoint import load_into

Say = Callable[[str], None]
EXAMPLE = "Write it as package.module:factory, timm:NAME or torchvision:NAME"


def build_model(target: str, arguments: Sequence[str]) -> nn.Module:
    """Import `package.module:factory` and call it with name=value arguments.

    Raises:
        InputError: no such module or factory, wrong arguments, or no torch module comes out.
    """
    module_name, _, factory_name = target.partition(":")
    if not module_name or not factory_name:
        raise InputError(f"--model {target!r}", "is not a target", EXAMPLE)
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own module, in the folder where they are
    try:
        factory: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own module, which may fail in any way
        raise InputError(f"--model {target!r}", f"cannot be imported ({error})", EXAMPLE) from error
    for name in factory_name.split("."):
        factory = getattr(factory, name, None)
    if not callable(factory):
        raise InputError(f"--model {target!r}", f"has no callable {factory_name!r}", EXAMPLE)
    return called(target, factory, named_arguments(arguments))


def called(target: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> nn.Module:
    """The model that a factory gives, in eval mode.

    Raises:
        InputError: wrong arguments, or no torch module comes out.
    """
    try:
        model = factory(**arguments)
    except Exception as error:  # the user's own factory
        raise InputError(
            f"--model {target!r}", f"cannot be called ({error})", "Pass --model-arg name=value"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {target!r}", f"gives a {type(model).__name__}", EXAMPLE)
    return model.eval()


def named_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """name=value texts as arguments; a value is a number, a list … of Python, or else text.

    Raises:
        InputError: not name=value.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise InputError(f"--model-arg {pair!r}", "is not name=value", "Write it as width=2")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values[name] = text
    return values


def load_weights(model: nn.Module, checkpoint: Path, say: Say) -> None:
    """`load_into`, which says what it took where the file holds more than one state dict."""
    taken = load_into(model, checkpoint)
    if not taken.plain:
        say(f"{checkpoint.name}: {taken}")
