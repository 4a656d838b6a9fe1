"""What is to be seen while it runs: a live table in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgemem import Result

WINDOW = 200  # frames of the rolling figures
LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
ROUTINE = ("context", "reading")  # events that no log needs


class View:
    """Shows the newest frame and how things have gone lately.

    labels: names of the classes. quiet: show nothing.
    """

    def __init__(self, labels: tuple[str, ...], quiet: bool) -> None:
        self._labels = labels
        self._agreed: deque[bool] = deque(maxlen=WINDOW)
        self._wrong: deque[tuple[bool, bool]] = deque(maxlen=WINDOW)
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._told: deque[str] = deque(maxlen=5)
        self._lines = not quiet and not sys.stdout.isatty()
        self._spoken = time.monotonic()
        self._live = None if quiet or self._lines else Live(refresh_per_second=8)
        self._frames = 0

    def show(self, result: Result, frozen: Result, label: int | None) -> None:
        """Take one frame: what both models said, and its true label if that is known."""
        self._frames += 1
        now = time.monotonic()
        self._times.append(now)
        self._agreed.append(bool(result.labels[0] == frozen.labels[0]))
        if label is not None:
            self._wrong.append((bool(frozen.labels[0] != label), bool(result.labels[0] != label)))
        for event in result.events:
            if event.kind != "adapted" and not (self._lines and event.kind in ROUTINE):
                self.tell(f"{event.kind}: {event.message}")
        if self._live is not None:
            self._live.update(Group(self._table(result), Text("\n".join(self._told))))
        elif self._lines and now - self._spoken > LINE_EVERY:
            self._spoken = now
            facts = (f"{name} {value}" for name, value in self._facts(result))
            print(", ".join(facts), flush=True)

    def tell(self, text: str) -> None:
        """Something that happened."""
        self._told.append(f"{self._frames:>7,}  {text}")
        if self._lines:
            print(text, flush=True)

    def _facts(self, result: Result) -> list[tuple[str, str]]:
        odds = np.exp(result.logits[0] - result.logits[0].max())
        span = self._times[-1] - self._times[0]
        facts = [
            ("label", self._labels[result.labels[0]]),
            ("confidence", f"{odds.max() / odds.sum():.0%}"),
            ("context", result.context),
            ("drift", "–" if result.drift is None else f"{result.drift:.2f}"),
            ("agrees with frozen", f"{np.mean(self._agreed):.0%}"),
        ]
        if self._wrong:
            frozen, adapted = np.mean(self._wrong, 0)
            facts.append(("error", f"{adapted:.0%} (frozen {frozen:.0%})"))
        rate = (len(self._times) - 1) / span if span else 0.0
        return [*facts, ("frames", f"{self._frames:,}"), ("frames per second", f"{rate:.0f}")]

    def _table(self, result: Result) -> Table:
        table = Table(box=box.SIMPLE, show_header=False, title="EdgeMem", title_justify="left")
        table.add_column(style="dim", min_width=20)
        table.add_column(min_width=24)
        for name, value in self._facts(result):
            table.add_row(name, value)
        return table

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
