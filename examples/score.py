"""What an example measured: errors of the frozen and of the adapted model, by context."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from edgemem import InputError, Result


@dataclass
class Score:
    """Counts what two models say of the same frames; every answer is from before its update.

    unit: what a frame is, in the plural. What is kept grows only while true labels are known.
    """

    unit: str
    frames: int = 0
    agreed: int = 0
    events: Counter[str] = field(default_factory=Counter)
    _context: list[str] = field(default_factory=list)
    _wrong: list[tuple[bool, bool]] = field(default_factory=list)  # frozen, adapted
    _used: list[tuple[str, float]] = field(default_factory=list)

    def add(self, context: str, truth: NDArray[np.int64], frozen: Result, result: Result) -> None:
        """Take n frames of one context. truth: [n] int64 labels, -1 where they are unknown."""
        self.frames += len(result.labels)
        self.agreed += int((result.labels == frozen.labels).sum())
        self.events.update(event.kind for event in result.events)
        for label, before, after in zip(truth, frozen.labels, result.labels, strict=True):
            if label >= 0:
                self._context.append(context)
                self._wrong.append((bool(before != label), bool(after != label)))
                self._used.append((result.context, result.drift or 0.0))

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Errors are fractions, of all frames and of each context; later_error is that of
        later visits alone. None where labels, or later visits, are missing."""
        contexts, wrong = np.array(self._context), np.array(self._wrong, bool).reshape(-1, 2)
        names = list(dict.fromkeys(self._context))
        rows = {name: _errors(wrong, contexts == name, _later(contexts)) for name in names}
        every = _errors(wrong, np.ones(len(wrong), bool), _later(contexts))
        agreement = self.agreed / max(self.frames, 1)
        head = {"unit": self.unit, "frames": self.frames, "agreement": agreement}
        return head | every | {"contexts": rows, "events": dict(self.events)}

    def show(self, as_json: bool, picture: str | None, milliseconds: float) -> None:
        """Print one JSON object, or a table and a line."""
        found = self.as_dict() | {"ms_per_frame": milliseconds, "picture": picture}
        if as_json:
            print(json.dumps(found, indent=1))
            return
        console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
        if self._wrong:
            console.print(self._table(found))
        events = ", ".join(f"{kind} {count}" for kind, count in sorted(self.events.items()))
        console.print(
            f"{self.frames:,} {self.unit}, {milliseconds:.2f} ms each; the adapted model agrees "
            f"with the frozen one on {found['agreement']:.1%}. Events: {events or 'none'}."
        )
        if self._wrong:
            console.print(f"Picture: {picture}" if picture else "No picture: no matplotlib.")

    def _table(self, found: dict[str, Any]) -> Table:
        table = Table(title="error", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("context", self.unit, "frozen", "adapted", "later visits*"):
            table.add_column(name, justify="left" if name == "context" else "right")
        for name, row in (found["contexts"] | {"all": found}).items():
            keys = ("frozen_error", "adapted_error", "later_error")
            table.add_row(name, f"{row['labelled']:,}", *(_percent(row[key]) for key in keys))
        table.caption = "* adapted, without the first visit of a context"
        return table

    def draw(self, path: Path, title: str, window: int = 100) -> str | None:
        """Save a picture of the errors over time; None without labels or matplotlib.

        Raises:
            InputError: it cannot be saved there.
        """
        if not self._wrong or importlib.util.find_spec("matplotlib") is None:
            return None
        from edgemem.plot import plot_errors

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(path.parent), str(error), "Choose another --out") from error
        wrong = np.array(self._wrong)
        used, drift = zip(*self._used, strict=True)
        plot_errors(
            path, {"frozen": wrong[:, 0], "adapted": wrong[:, 1]}, np.array(self._context),
            title=title, window=window, used=np.array(used), drift=np.array(drift, np.float32),
        )  # fmt: skip
        return str(path)


def _errors(
    wrong: NDArray[np.bool_], chosen: NDArray[np.bool_], later: NDArray[np.bool_]
) -> dict[str, float | int | None]:
    frozen, adapted = wrong[chosen, 0], wrong[chosen, 1]
    return {
        "labelled": int(chosen.sum()),
        "frozen_error": _mean(frozen),
        "adapted_error": _mean(adapted),
        "later_error": _mean(wrong[chosen & later, 1]),
    }


def _later(contexts: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Of every frame, whether its context had been left before."""
    left: set[str] = set()
    found = np.zeros(len(contexts), bool)
    for k, name in enumerate(contexts):
        if k and contexts[k - 1] != name:
            left.add(str(contexts[k - 1]))
        found[k] = name in left
    return found


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
