"""The rows of the shipped bank that a block is summed from, read on a thread of their own.

A slow disk must not hold up predictions: whoever asks waits a little, then goes on with the generic
block and asks again at the next batch.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as ReadTimeoutError
from dataclasses import dataclass, field
from pathlib import Path

from edgemem.bank.shipped import Fetched, ShippedBank
from edgemem.block import Array, Arrays, BlockSpec
from edgemem.errors import EdgeMemError

PATIENCE = 0.05  # seconds; less than a step takes


@dataclass(frozen=True)
class Rows:
    """What the shipped bank adds to a block. path: rows per level; empty where it adds nothing.

    values: by array. faults: readable texts about rows that count as zero.
    """

    path: tuple[int, ...] = ()
    values: Arrays = field(default_factory=dict)
    faults: tuple[str, ...] = ()


NOTHING = Rows()


class ShippedRows:
    """Reads the rows of one bank, one request at a time.

    Raises:
        BankError: levels that do not fit each other or the block.
    """

    def __init__(self, folder: Path, spec: BlockSpec) -> None:
        self._spec = spec
        elements = sum(array.nbytes for array in spec.arrays) // 4
        self._bank = ShippedBank(folder, elements)
        self._thread = ThreadPoolExecutor(1, "edgemem-rows")
        self._request: Future[Rows] | None = None

    @property
    def reading(self) -> bool:
        """Whether an answer is still to come."""
        return self._request is not None

    def ask(self, path: tuple[int, ...]) -> None:
        """Ask for the rows of a path that was taken before."""
        self._request = self._thread.submit(self._along, path)

    def ask_nearest(self, key: Array, reach: float) -> None:
        """Ask for the rows of the leaf nearest to a key, if it is within reach."""
        self._request = self._thread.submit(self._near, key, reach)

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        self._request = None

    def answer(self, patience: float | None = PATIENCE) -> Rows | None:
        """The rows asked for, or None if they are not there after so many seconds (None: wait)."""
        if self._request is None:
            return NOTHING
        try:
            found = self._request.result(patience)
        except ReadTimeoutError:
            return None
        except EdgeMemError as error:
            found = Rows(faults=(str(error),))
        self._request = None
        return found

    def close(self) -> None:
        """Close the files, after the read under way."""
        self._thread.shutdown(cancel_futures=True)
        self._bank.close()

    def _along(self, path: tuple[int, ...]) -> Rows:
        faults: list[str] = []
        values = self._bank.sum_rows(path, faults)
        return Rows(path, self._spec.unflatten(values), tuple(faults))

    def _near(self, key: Array, reach: float) -> Rows:
        found: Fetched = self._bank.fetch(key)
        if not found.path or found.distances[-1] > reach * reach:
            return Rows(faults=tuple(found.faults))
        return Rows(found.path, self._spec.unflatten(found.values), tuple(found.faults))
