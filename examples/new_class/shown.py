"""What the example shows: how many of each digit are told before and after."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from edgemem import InputError

GREY, RED = "#9a9a9a", "#d1495b"  # as in the other pictures
Answers = Sequence[Sequence[str]]  # before and after: the name that each frame was given
Labels = NDArray[np.int64]


def accuracies(truth: Labels, answers: Answers, digits: Sequence[str]) -> dict[str, list[float]]:
    """Before and after, as fractions of each digit and of all frames."""
    names = np.array([digits[k] for k in truth])
    right = [np.array(given) == names for given in answers]
    found = {name: [float(r[names == name].mean()) for r in right] for name in digits}
    return found | {"all": [float(r.mean()) for r in right]}


def show(
    truth: Labels, answers: Answers, digits: Sequence[str], picture: str | None, as_json: bool
) -> None:
    """Print one JSON object, or a table and a line."""
    found = accuracies(truth, answers, digits)
    if as_json:
        print(json.dumps({"accuracy": found, "frames": len(truth), "picture": picture}, indent=1))
        return
    table = Table(title="told right", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("digit", "before", "after"):
        table.add_column(name, justify="left" if name == "digit" else "right")
    for name, (before, after) in found.items():
        table.add_row(name, f"{100 * before:.1f} %", f"{100 * after:.1f} %")
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    console.print(table)
    console.print(f"Picture: {picture}" if picture else "No picture: no matplotlib.")


def draw(
    path: Path, frames: NDArray[np.uint8], truth: Labels, answers: Answers, digits: Sequence[str]
) -> str | None:
    """Save a picture; None without matplotlib. frames: [n, 1, 8, 8].

    Raises:
        InputError: it cannot be saved there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    examples, bars = figure.subfigures(2, 1, height_ratios=[1, 1.9])
    for k, axes in enumerate(examples.subplots(1, len(digits))):
        first = int(np.flatnonzero(truth == k)[0])
        axes.imshow(frames[first, 0], cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        before, after = (given[first] for given in answers)
        axes.set_title(f"{before}\n→ {after}", fontsize=9,
                       color="black" if after == digits[k] else RED)  # fmt: skip
    _bars(bars.subplots(), accuracies(truth, answers, digits))
    figure.suptitle(
        "The first frame of each digit with its answers before and after; and all frames"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
    except OSError as error:
        raise InputError(str(path.parent), str(error), "Choose another --out") from error
    return str(path)


def _bars(axes: Any, found: dict[str, list[float]]) -> None:
    places = np.arange(len(found))
    for shift, colour, name, k in ((-0.2, GREY, "before", 0), (0.2, RED, "after", 1)):
        heights = [100 * both[k] for both in found.values()]
        axes.bar(places + shift, heights, 0.4, color=colour, label=name)
    axes.set_xticks(places, list(found))
    axes.set(ylabel="told right (%)", ylim=(0, 105), xlim=(-0.6, len(found) - 0.4))
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
