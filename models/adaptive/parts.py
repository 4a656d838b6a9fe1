"""Part names: a dotted module name, or a range of a Sequential or ModuleList.

`layer1`, `features.0`, `layer3[0:3]` (the modules 0, 1 and 2 of layer3).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from edgemem.errors import AttachError

RANGE = re.compile(r"^(?P<name>[^\[\]]+)\[(?P<start>\d*):(?P<stop>\d*)\]$")


class Surroundings(Protocol):
    """What sees all that goes into a part and comes out of it, and may change both."""

    def enter_part(self, key: str, part_input: Tensor) -> Tensor:
        """What the part shall see."""

    def leave_part(self, key: str, output: Tensor) -> Tensor:
        """What comes after the part shall see."""


@dataclass(frozen=True)
class Part:
    """One named part: input of the first module to output of the last."""

    name: str
    first: nn.Module
    last: nn.Module

    def surround(self, surroundings: Surroundings, key: str) -> None:
        """From now on, let each run of the part pass through `surroundings`."""
        self.first.register_forward_pre_hook(_Enter(surroundings, key))
        self.last.register_forward_hook(_Leave(surroundings, key))


def split_parts(text: str) -> list[str]:
    """'layer1, layer3[0:3]' -> ['layer1', 'layer3[0:3]']."""
    return [name.strip() for name in text.split(",") if name.strip()]


def find_part(model: nn.Module, name: str) -> Part:
    """Resolve a part name; raises AttachError with the nearest names."""
    match = RANGE.match(name)
    module = _find_module(model, match["name"] if match else name, name)
    if match is None:
        return Part(name, module, module)
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        raise AttachError(
            f"part {name!r}",
            f"{match['name']!r} is a {type(module).__name__}, not a Sequential or ModuleList",
            "Ranges work on those only; name a module instead",
        )
    children = list(module)
    start, stop = int(match["start"] or 0), int(match["stop"] or len(children))
    if not 0 <= start < stop <= len(children):
        raise AttachError(
            f"part {name!r}",
            f"{match['name']!r} has {len(children)} modules",
            f"Use a range within [0:{len(children)}]",
        )
    return Part(name, children[start], children[stop - 1])


def _find_module(model: nn.Module, path: str, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if path and path in modules:
        module: nn.Module = modules[path]
        return module
    known = [known for known in modules if known]
    near = difflib.get_close_matches(path, known, n=5, cutoff=0.4) or known[:5]
    raise AttachError(
        f"part {name!r}", "the model has no such module", f"Nearest names: {', '.join(near)}"
    )


@dataclass(frozen=True, eq=False)
class _Enter:
    """Hook before a part. An object, so that a deep copy of the model hooks into the copy."""

    surroundings: Surroundings
    key: str

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (self.surroundings.enter_part(self.key, args[0]),)


@dataclass(frozen=True, eq=False)
class _Leave:
    """Hook after a part."""

    surroundings: Surroundings
    key: str

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return self.surroundings.leave_part(self.key, output)
