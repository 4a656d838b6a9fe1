"""Tables and pictures of the harness."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.streams import Stream
from edgemem.cli.show import print_table

SMOOTHED = 500  # frames
Runs = dict[str, dict[str, list[dict[str, Any]]]]
COLUMNS = ("method", "error", "worst", "first", "visit 1", "last", "source", "ms", "MB")


def show(title: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One table: means over seeds, with the standard deviation of the error."""
    table = []
    for name, runs in rows.items():
        if not runs:
            continue
        mean = {key: _mean(runs, key) for key in ("worst", "first", "source_after")}
        visits = np.mean([run["by_visit"] for run in runs], 0)
        errors = 100 * errors_by_seed(runs)
        several = len(visits) > 1
        table.append(
            (
                name,
                f"{errors.mean():.1f}±{errors.std():.1f}",
                _short(mean["worst"]),
                _short(mean["first"]),
                _short(visits[0] if several else None),
                _short(visits[-1] if several else None),
                _short(mean["source_after"]),
                f"{np.mean([run['ms_per_frame'] for run in runs]):.1f}",
                f"{max(run['peak_mb'] for run in runs):.0f}",
            )
        )
    print_table(title, COLUMNS, table)


def errors_by_seed(runs: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Mean over tasks, for each seed."""
    seeds = sorted({run["seed"] for run in runs})
    return np.array([np.mean([r["error"] for r in runs if r["seed"] == k]) for k in seeds])


def _mean(runs: list[dict[str, Any]], key: str) -> float | None:
    values = [run[key] for run in runs]
    return None if values[0] is None else float(np.mean(values))


def _short(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def draw(out: Path, folder: Path, options: argparse.Namespace, runs: Runs) -> None:
    """Rolling error over time, one picture a protocol: its first task, seed 0."""
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    for protocol in options.chosen:
        place = folder / options.chosen[protocol].tasks[0]
        stream = Stream.load(place / "streams" / f"{protocol}-0.npz")
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        axes = figure.subplots()
        for name in (m for m in options.methods if runs[protocol][m]):
            wrong = np.load(place / "curves" / f"{protocol}-0-{name}.npy")
            size = min(SMOOTHED, len(wrong))
            smooth = 100 * np.convolve(wrong, np.full(size, 1 / size), "valid")
            ours = name.startswith("EdgeMem")
            axes.plot(smooth, label=name, linewidth=2.2 if ours else 1.0, zorder=3 if ours else 2)
        changes = np.flatnonzero(np.diff(stream.context)) + 1
        if len(changes) < 40:
            for change in changes:
                axes.axvline(change, color="0.85", linewidth=0.6, zorder=1)
        axes.set(xlabel="frames", ylabel="error (%)", title=protocol, ylim=(0, 100))
        axes.legend(fontsize=7, ncols=3)
        figure.savefig(
            out / f"adaptation-{protocol.replace(', ', '-').replace(' ', '-')}.png", dpi=110
        )
