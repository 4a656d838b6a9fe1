"""Pictures beside the numbers. Needs the extra `plot`."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.errors import InputError, MissingExtraError
from edgemem.files.atomic import explain_write_errors
from edgemem.printable import printable

COLOURS = {"frozen": "#9a9a9a", "statistics": "#3a7ebf", "adapted": "#d1495b"}
MARKS = {
    "skipped": "x",
    "restored": "<",
    "reset": "v",
    "frozen": "s",
    "recovered": "^",
    "still": "_",
}
MARK_COLOURS = {"frozen": "#9a9a9a", "recovered": "#4c956c"} | dict.fromkeys(
    ("skipped", "restored", "reset", "still"), "#e08e1b"
)
SHADES = ("#ffffff", "#eef1f5")
LONGEST_NAME = 80
MANY_VISITS = 10  # with more, names beside one another need a slant
SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Check that a picture can be drawn and saved, before the work it is to show.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the folder cannot be written, or the kind of picture is unknown.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            str(path), "is no kind of picture", f"Let its name end in {', '.join(SUFFIXES)}"
        )
    if path.exists() and not path.is_file():
        raise InputError(str(path), "is there, and is not a picture", "Choose another name")
    with explain_write_errors(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of matplotlib of that many inches, for files alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def drawn(text: str) -> str:
    """Text of others as it is drawn: harmless, short, and no formula."""
    return printable(text)[:LONGEST_NAME].replace("$", r"\$")


def rolling(wrong: NDArray[np.bool_], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at every position (fewer at the start)."""
    sums = np.cumsum(np.concatenate([[0.0], wrong.astype(np.float64)]))
    stop = np.arange(1, len(wrong) + 1)
    start = np.maximum(stop - window, 0)
    means: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def plot_errors(
    path: Path,
    wrong: Mapping[str, NDArray[np.bool_]],
    contexts: NDArray[np.str_] | None,
    *,
    title: str,
    window: int = 200,
    used: NDArray[np.str_] | None = None,
    drift: NDArray[np.float32] | None = None,
    rails: Sequence[tuple[int, str]] = (),
) -> None:
    """Draw the rolling error of several methods over a stream, contexts shaded and named.

    With used and drift (per frame, as in a report), a second panel shows the drift and, as a strip
    of colours, which context the runtime took: the same colour is the same block. rails: guard
    rails that fired, by frame and kind, as marks along the bottom.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    told_apart = used is not None and drift is not None
    figure = new_figure((10, 5.2 if told_apart else 4))
    panels = {"height_ratios": [3, 1]} if told_apart else {}
    rows = figure.subplots(
        2 if told_apart else 1, 1, sharex=True, squeeze=False, gridspec_kw=panels
    )
    axes = rows[0, 0]
    for name, values in wrong.items():
        mean = float(values.mean())
        axes.plot(
            100 * rolling(values, window),
            label=drawn(f"{name} ({100 * mean:.1f} %)"),
            color=COLOURS.get(name.split()[0]),
            linewidth=1.6,
        )
    if contexts is not None:
        _shade(axes, contexts)
    axes.set(ylabel=f"error, mean of {window} frames (%)", title=drawn(title))
    rows[-1, 0].set_xlabel("frame")
    if used is not None and drift is not None:
        _draw_contexts(rows[1, 0], used, drift)
    axes.set_xlim(0, max(len(values) for values in wrong.values()))
    axes.set_ylim(bottom=0)
    kinds = _draw_rails(axes, rails)
    figure.legend(loc="outside lower center", ncols=len(wrong) + kinds, frameon=False)
    with explain_write_errors(path):
        figure.savefig(path, dpi=110)


def _draw_rails(axes: Any, rails: Sequence[tuple[int, str]]) -> int:
    """Marks, a kind each; how many kinds there were."""
    kinds = sorted({kind for _, kind in rails})
    for kind in kinds:
        frames = [frame for frame, other in rails if other == kind]
        height = [0.02] * len(frames)
        axes.scatter(
            frames, height, s=24, marker=MARKS.get(kind, "."), label=kind, zorder=4,
            transform=axes.get_xaxis_transform(), clip_on=False, color=MARK_COLOURS.get(kind),
        )  # fmt: skip
    return len(kinds)


def _draw_contexts(axes: Any, used: NDArray[np.str_], drift: NDArray[np.float32]) -> None:
    """Drift as a line, and below it the context in use as a strip of colours."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(used.tolist()))
    colours = colormaps["tab20"].resampled(20)
    top = float(np.nanmax(drift, initial=1.0))
    strip = 0.25 * top
    for start, stop in _spans(used):
        colour = colours(names.index(str(used[start])) % 20)
        axes.axvspan(start, stop, ymax=0.2, color=colour, linewidth=0)
        axes.axvline(start, color="#999999", linewidth=0.5, zorder=0)
    axes.plot(drift + strip, color="#444444", linewidth=0.8)
    ticks = np.linspace(0, np.ceil(top), 3)
    axes.set_yticks(ticks + strip, [f"{tick:g}" for tick in ticks])
    axes.set(ylabel="drift", ylim=(0, strip + 1.05 * top))
    switches = sum(1 for _ in _spans(used)) - 1
    text = f"context in use: {len(names)} names, {switches} switches"
    axes.set_title(text, fontsize=8, color="#555555", loc="left")


def _spans(names: NDArray[np.str_]) -> list[tuple[int, int]]:
    changes = np.flatnonzero(names[1:] != names[:-1]) + 1
    return list(pairwise([0, *changes.tolist(), len(names)]))


def _shade(axes: Any, contexts: NDArray[np.str_]) -> None:
    visits = _spans(contexts)
    for visit, (start, stop) in enumerate(visits):
        axes.axvspan(start, stop, color=SHADES[visit % 2], zorder=0)
    names = axes.secondary_xaxis("top")
    names.set_xticks(
        [(start + stop) / 2 for start, stop in visits],
        [drawn(str(contexts[start]).replace("_", " ")) for start, _ in visits],
        rotation=35 if len(visits) > MANY_VISITS else 0,
        ha="left" if len(visits) > MANY_VISITS else "center",
        rotation_mode="anchor",
        fontsize=8,
        color="#555555",
    )
    names.tick_params(length=0)
