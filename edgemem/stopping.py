"""Ending well: Ctrl-C and SIGTERM, but not in the middle of a step.

    with stopping() as stop, edgemem.open(bundle, state) as runtime:
        for frames in stream:
            with stop.later():
                runtime.step(frames)

A signal ends the program where it is, or, inside `later`, at the end of that: with
KeyboardInterrupt (exit code 130) or SystemExit (exit code 143). Then the runtime is closed, which
commits.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """What has asked the program to end, and whether it may end right now."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._busy = False

    @contextmanager
    def later(self) -> Iterator[None]:
        """Hold a signal up until the end; a second one is not held up."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        self.now()

    def now(self) -> None:
        """End the program if it was asked to: for moments within `later` at which it may.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SystemExit: it was SIGTERM; the exit code is 143.
        """
        if self._asked is None:
            return
        asked, self._asked = self._asked, None
        if asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + asked)

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of signals."""
        at_once = not self._busy or self._asked is not None
        self._asked = number
        if at_once:
            self.now()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Take the signals over, on the main thread, and give them back at the end."""
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
