"""Finding a model's weights in what people save: dicts in dicts, prefixes, averaged copies beside.

The model's own names and shapes decide. Nothing is taken that does not match all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

State = dict[str, Tensor]
DEPTH = 6
AVERAGED = re.compile(
    r"(^|[._])(ema|swa)([._]|$)|model_?ema|ema_?model|averag|shadow", re.IGNORECASE
)
USUAL = ("state_dict", "model_state_dict", "model", "net")
# Segments that wrappers put into names: torch.compile, and DistributedDataParallel or DataParallel.
WRAPPED = (("_orig_mod",), ("_orig_mod", "module"))


@dataclass(frozen=True)
class FoundState:
    """A state dict that matches.

    Attributes:
        where: the keys that lead to it.
        prefix: what its names began with.
        left: how many tensors beside have other names.
        averaged: whether it is a mean over training, as EMA and SWA keep them.
    """

    where: tuple[str, ...]
    prefix: str
    left: int
    averaged: bool
    state: State

    @property
    def plain(self) -> bool:
        """Whether the file is this state dict and nothing else."""
        return not self.where and not self.prefix

    def __str__(self) -> str:
        text = repr(".".join(self.where)) if self.where else "the tensors of the file"
        text += f" without the prefix {self.prefix!r}" if self.prefix else ""
        return f"{text} (of {self.left + len(self.state)}, {self.left} left)" if self.left else text


def states(loaded: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], State]]:
    """Every dict with tensors in it, from the outside in, in the order of the file."""
    if not isinstance(loaded, Mapping) or len(where) > DEPTH:
        return
    own = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if own:
        yield where, own
    for name, value in loaded.items():
        yield from states(value, (*where, str(name)))


def matches(loaded: Any, own: Mapping[str, Tensor]) -> list[FoundState]:
    """All state dicts that have exactly the names and shapes of `own`, the one to take first.

    Weights as trained come before averaged ones, then those under a usual name; else the order of
    the file stays.
    """
    found = [
        FoundState(
            where,
            prefix,
            len(state) - len(inner),
            bool(AVERAGED.search(".".join((*where, prefix)))) or "n_averaged" in state,
            inner,
        )
        for where, state in states(loaded)
        for prefix, inner in _stripped(state, own)
        if not any(differences(inner, own))
    ]
    return sorted(
        found, key=lambda one: (one.averaged, bool(one.where) and one.where[-1] not in USUAL)
    )


def differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[list[str], ...]:
    """Names that are missing, unknown and misshapen; counters of batches may be missing."""
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    misshapen = [name for name in state if name in own and state[name].shape != own[name].shape]
    return sorted(missing), sorted(unknown), misshapen


def nearest(loaded: Any, own: Mapping[str, Tensor]) -> State | None:
    """Of all state dicts the one with the fewest differences, for an error that helps."""
    inner = [one for _, state in states(loaded) for _, one in _stripped(state, own)]
    return min(inner, key=lambda one: sum(map(len, differences(one, own))), default=None)


def _stripped(state: State, own: Mapping[str, Tensor]) -> Iterator[tuple[str, State]]:
    """The state as it is, and every part of it that a common prefix sets apart.

    Each with names as they are, and without what wrappers put into them, in `own` as well: a real
    child may have a wrapper's name.
    """
    seen: set[tuple[tuple[str, int], ...]] = set()
    for rename in (_same, *map(_without, WRAPPED)):
        named = {rename(name): value for name, value in state.items()}
        names = {rename(name): name for name in own}
        if len(named) < len(state) or len(names) < len(own):
            continue  # two would become one
        for prefix in ("", *_prefixes(named, names)):
            inner = {
                names.get(name.removeprefix(prefix), name.removeprefix(prefix)): value
                for name, value in named.items()
                if name.startswith(prefix)
            }
            found = tuple((name, id(value)) for name, value in inner.items())
            if found not in seen:
                seen.add(found)
                yield prefix, inner


def _prefixes(state: State, own: Iterable[str]) -> list[str]:
    """What stands before the model's first name, wherever that name ends one of the state's."""
    first = next((name for name in own if not name.endswith("num_batches_tracked")), None)
    if first is None:
        return []
    return [name.removesuffix(first) for name in state if name.endswith(f".{first}")]


def _same(name: str) -> str:
    return name


def _without(segments: tuple[str, ...]) -> Callable[[str], str]:
    return lambda name: ".".join(part for part in name.split(".") if part not in segments)
