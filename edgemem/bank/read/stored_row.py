"""A block as it is stored, read from its level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.levels.level import Level, nothing
from edgemem.errors import BankError

Values = NDArray[np.float32]


class StoredRow(NamedTuple):
    """A block as it is stored, or None and why: it counts as zero then."""

    values: NDArray[Any] | None
    scale: float = 1.0
    fault: str = ""

    @property
    def nbytes(self) -> int:
        """What a cache holds for it, nearly."""
        return 64 if self.values is None else self.values.nbytes


def read_row(
    level: Level, row: int, values: NDArray[Any], waiting: Callable[[], None] = nothing
) -> StoredRow:
    """Read a row into `values` [elements], of the dtype of the level; waiting: as in Level."""
    try:
        return StoredRow(values, level.read_stored(row, values, waiting))
    except BankError as error:
        return StoredRow(None, fault=f"{error.thing}: {error.reason}; counts as zero")


def as_floats(values: NDArray[Any], scale: float, out: Values) -> Values:
    """Stored values in float32: themselves if they are, otherwise in `out`."""
    if values.dtype == np.float32:
        return values
    np.multiply(values, np.float32(scale), out=out, dtype=np.float32)
    return out
