"""When the step runs: on one batch in so many, on drift, or as long as a budget of time lasts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from edgemem.errors import InputError
from edgemem.printable import shown

When = int | str
MINUTE = 60.0  # seconds
BUDGET = re.compile(r"([0-9]+(?:\.[0-9]+)?)s/min")


class Schedule:
    """Decides on which full batches the step runs.

    when: n = one batch in n; "drift" = only while the context is drifting; "2s/min" = while steps
    take no more than two seconds of every minute. clock: seconds, never backwards.

    A budget fills as time goes by, up to that of one minute, with which it starts. A step runs if
    anything is left, and may overdraw it; the next one waits until that is made good.

    Raises:
        InputError: none of these.
    """

    def __init__(self, when: When, clock: Callable[[], float] = time.monotonic) -> None:
        self.when, self._clock = when, clock
        self._rate = _seconds_per_minute(when) / MINUTE
        self._left, self._looked = self._rate * MINUTE, clock()

    def due(self, batch: int, drifting: bool) -> bool:
        """Whether the step runs on a batch. batch: how many full ones came before it."""
        if isinstance(self.when, int):
            return batch % self.when == 0
        if self.when == "drift":
            return drifting
        now = self._clock()
        self._left = min(self._rate * MINUTE, self._left + self._rate * (now - self._looked))
        self._looked = now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        """Note what a step took."""
        self._left -= seconds


def _seconds_per_minute(when: When) -> float:
    """Of a budget; zero for the other rules."""
    if isinstance(when, int) and not isinstance(when, bool) and when >= 1:
        return 0.0
    if isinstance(when, str) and when == "drift":
        return 0.0
    found = BUDGET.fullmatch(when) if isinstance(when, str) else None
    seconds = 0.0 if found is None else float(found[1])
    if not 0 < seconds <= MINUTE:
        raise InputError(
            f"adapt_when={shown(when)}",
            "is unknown",
            'Pass 1 or more, "drift", or such as "2s/min"',
        )
    return seconds
