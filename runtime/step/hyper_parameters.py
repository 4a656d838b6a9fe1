"""Hyper-parameters that a user sets on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edgemem.bundle.manifest import Manifest
from edgemem.errors import InputError
from edgemem.printable import shown

LARGEST = 3.4e38  # about the largest number of single precision


def read_parameters(manifest: Manifest, read: str | None) -> dict[str, float]:
    """The hyper-parameters of a way to answer; none = as the bundle has them.

    Raises:
        InputError: a way that the bundle does not have.
    """
    if read is None:
        return {}
    if manifest.teaching is None:
        raise InputError(
            f"read={shown(read)}",
            f"is not possible: bundle {manifest.name!r} learns no classes",
            "Export it again with --max-classes",
        )
    if not isinstance(read, str) or read not in manifest.teaching.reads:
        known = ", ".join(manifest.teaching.reads)
        raise InputError(f"read={shown(read)}", "is unknown to this bundle", f"Use one of {known}")
    return manifest.teaching.reads[read]


class HyperParameters(Mapping[str, float]):
    """The scalars of a bundle by name; to be read like a dict, and changed by `set`.

    Args:
        chosen: values in place of the bundle's defaults.

    Raises:
        InputError: as `set`, or `chosen` is no mapping.
    """

    def __init__(self, manifest: Manifest, chosen: Mapping[str, float]) -> None:
        self._values = {name: value.default for name, value in manifest.hyper_parameters.items()}
        if not isinstance(chosen, Mapping):
            raise InputError(
                f"hyper_parameters={shown(chosen)}", "are no dict", 'Pass such as {"alpha": 0.5}'
            )
        self.set(chosen)

    def set(self, values: Mapping[str, float] | None = None, /, **more: float) -> None:
        """Change some values, by name; all of them or, where one is wrong, none.

        Raises:
            InputError: a name that the bundle does not have, or a value that is no finite number in
                single precision.
        """
        checked = {}
        for name, value in {**(values or {}), **more}.items():
            if name not in self._values:
                raise InputError(
                    f"hyper-parameter {shown(name)}",
                    "is unknown to this bundle",
                    f"It has {', '.join(sorted(self._values)) or 'none'}",
                )
            checked[name] = finite_number(f"hyper-parameter {name!r}", value)
        self._values = self._values | checked  # at once, for readers on other threads

    def now(self) -> dict[str, float]:
        """All values as they are at this moment."""
        return dict(self._values)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def finite_number(thing: str, value: object) -> float:
    """A number that stays finite in single precision, as graphs take it.

    Raises:
        InputError: anything else.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST or isinstance(value, str):
        raise InputError(thing, f"is {shown(value)}", "Pass a finite number")
    return number
