"""The rows of the shipped bank that a block is summed from, read on a thread of their own.

A slow disk must not hold up predictions: whoever asks waits a little, then goes on with the generic
block and asks again at the next batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as ReadTimeoutError
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

from edgemem.block import Array, Block, BlockSpec
from edgemem.errors import EdgeMemError

PATIENCE = 0.05  # seconds; less than a step takes
LAST_PATIENCE = 5.0  # before a commit or the end


@dataclass(frozen=True)
class Rows:
    """What the shipped bank adds to a block. path: rows per level; empty where it adds nothing.

    Attributes:
        values: by array.
        faults: readable texts about rows that count as zero.
    """

    path: tuple[int, ...] = ()
    values: Block = field(default_factory=lambda: Block({}))
    faults: tuple[str, ...] = ()


NOTHING = Rows()
Read = Callable[[], Rows]


class Request:
    """Rows that were asked for."""

    def __init__(self) -> None:
        self.future: Future[Rows] = Future()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.future.cancel()

    def answer(self, patience: float = PATIENCE) -> Rows | None:
        """The rows, or None if they are not there after so many seconds."""
        try:
            return self.future.result(patience)
        except ReadTimeoutError:
            return None
        except (EdgeMemError, OSError) as error:
            return Rows(faults=(str(error),))
        except CancelledError:  # an interrupt came between the request and what it was for
            return Rows(faults=("the read was given up",))


class ShippedRows:
    """Reads the rows of one bank, one request after the other.

    Raises:
        BankError: levels that do not fit each other or the block.
    """

    def __init__(self, folder: Path, spec: BlockSpec) -> None:
        from edgemem.bank.read.shipped_bank import ShippedBank  # loads where levels are used

        self._spec, self._bank = spec, ShippedBank(folder, spec.elements)
        self._queue: SimpleQueue[tuple[Future[Rows], Read] | None] = SimpleQueue()
        # A daemon: a read that never ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="edgemem-rows", daemon=True)

    def has(self, path: tuple[int, ...]) -> bool:
        """Whether the bank has a path of these rows."""
        branch = self._bank.branch
        return (
            len(path) <= len(self._bank.levels)
            and all(0 <= row < branch ** (level + 1) for level, row in enumerate(path))
            and all(row // branch == parent for parent, row in pairwise(path))
        )

    def ask(self, path: tuple[int, ...]) -> Request:
        """Ask for the rows of a path that was taken before."""
        return self._submit(lambda: self._along(path))

    def ask_nearest(self, key: Array, reach: float) -> Request:
        """Ask for the rows of the leaf nearest to a key, if it is within reach."""
        return self._submit(lambda: self._near(key, reach))

    def close(self, patience: float = LAST_PATIENCE) -> None:
        """Close the files after the read under way; whoever closes waits only so long for it."""
        if self._thread.ident is None:
            self._bank.close()
            return
        self._queue.put(None)
        if patience:  # whoever does not wait may be this very thread
            self._thread.join(patience)

    def _submit(self, read: Read) -> Request:
        if self._thread.ident is None:
            self._thread.start()
        request = Request()
        self._queue.put((request.future, read))
        return request

    def _serve(self) -> None:
        while (task := self._queue.get()) is not None:
            future, read = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(read())
                except Exception as error:  # noqa: BLE001 - whoever asked has to know
                    future.set_exception(error)
        self._bank.close()

    def _along(self, path: tuple[int, ...]) -> Rows:
        faults: list[str] = []
        values = self._bank.sum_rows(path, faults)
        return Rows(path, self._spec.unflatten(values), tuple(faults))

    def _near(self, key: Array, reach: float) -> Rows:
        found = self._bank.fetch(key)
        if not found.path or found.distances[-1] > reach * reach:
            return Rows(faults=tuple(found.faults))
        return Rows(found.path, self._spec.unflatten(found.values), tuple(found.faults))
