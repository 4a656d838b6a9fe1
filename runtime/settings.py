"""Hyper-parameters that a user sets on the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemem.errors import InputError
from edgemem.manifest import Manifest


def read_parameters(manifest: Manifest, read: str | None) -> dict[str, float]:
    """The hyper-parameters of a way to answer; none = as the bundle has them.

    Raises:
        InputError: a way that the bundle does not have.
    """
    if read is None:
        return {}
    if manifest.teaching is None:
        raise InputError(
            f"read={read!r}",
            f"is not possible: bundle {manifest.name!r} learns no classes",
            "Export it again with --max-classes",
        )
    if read not in manifest.teaching.reads:
        known = ", ".join(manifest.teaching.reads)
        raise InputError(f"read={read!r}", "is unknown to this bundle", f"Use one of {known}")
    return manifest.teaching.reads[read]


def known_parameters(manifest: Manifest, chosen: Mapping[str, float]) -> dict[str, float]:
    """The bundle's defaults, with the chosen values in their place.

    Raises:
        InputError: a name that the bundle does not have, or a value that is not finite.
    """
    known = {name: value.default for name, value in manifest.hyper_parameters.items()}
    for name, value in chosen.items():
        if name not in known:
            raise InputError(
                f"hyper-parameter {name!r}",
                "is unknown to this bundle",
                f"It has {', '.join(sorted(known)) or 'none'}",
            )
        if not np.isfinite(value):
            raise InputError(f"hyper-parameter {name!r}", f"is {value}", "Pass a finite number")
    return known | {name: float(value) for name, value in chosen.items()}
