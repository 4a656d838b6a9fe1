"""One step at a time on a thread of its own, so that predictions do not wait for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from edgemem.block import Arrays, Block
from edgemem.runtime.batch import Batch

NICENESS = 10


@dataclass(frozen=True, eq=False)
class FinishedStep:
    """A finished step.

    batch: its frames. block: the one it started from. outputs: of `adapt`. seconds: that it took.
    """

    batch: Batch
    block: Block
    outputs: Arrays
    seconds: float


class Background:
    """Runs steps, one after another. A step is started, and its outcome taken, by the owner."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "edgemem-step", initializer=_yield_to_others)
        self._running: tuple[Batch, Block, Future[tuple[Arrays, float]]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a step has been started whose outcome was not taken."""
        return self._running is not None

    def start(self, batch: Batch, block: Block, slots: Block) -> None:
        """Run a step from a block; not while busy."""
        assert self._running is None
        future = self._worker.submit(_timed, lambda: batch.step(block, slots))
        self._running = batch, block, future

    def take(self, *, wait: bool = False) -> FinishedStep | None:
        """The outcome of the step, once; None while it runs or where there is none.

        Raises:
            BundleError: the graph failed.
        """
        if self._running is None or not (wait or self._running[2].done()):
            return None
        (batch, block, future), self._running = self._running, None
        return FinishedStep(batch, block, *future.result())

    def wait(self) -> None:
        """Until the step that runs has finished or failed; its outcome is still to be taken."""
        if self._running is not None:
            self._running[2].exception()

    def drop(self) -> None:
        """Wait for the step that runs, and forget it, whether or not it failed."""
        self.wait()
        self._running = None

    def close(self, *, wait: bool = True) -> None:
        """Drop the step that runs. wait: for its end."""
        self._running = None
        self._worker.shutdown(wait=wait)  # whoever does not wait may be the worker itself


def _timed(step: Callable[[], Arrays]) -> tuple[Arrays, float]:
    """Outputs of a step, and the seconds that it took."""
    began = time.monotonic()
    return step(), time.monotonic() - began


def _yield_to_others() -> None:
    """Give this thread less of a processor than those that predict; only Linux can."""
    if sys.platform != "linux":
        return  # elsewhere the number of a thread may be that of some process
    with suppress(OSError):
        least = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(NICENESS, least))
