"""Tables and pictures of the harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptation.measures import Wrong
from benchmarks.adaptation.streams import Stream
from edgemem.cli.show import print_table

SMOOTHED = 500  # frames
Runs = dict[str, dict[str, list[dict[str, Any]]]]
NOTHING = "–"
COLUMNS = (
    "method", "error", "seeds", "worst", "first", "visit 1", "2", "last", "forgets", "gains",
    "trend", "source", "known", "ms", "MB",
)  # fmt: skip
PICTURES = "results"
INTRODUCTION = """# Adaptation: every method on the same streams

Written by `{command}`; do not edit.

{about}

Every method gets the same frames in the same batches, one processor thread, and answers a batch
before it learns from it, except where its authors let it answer afterwards. Peers run in torch with
their published settings; checks against their authors' code are in `tests/benchmarks`. Warm-up
trains on source data before deployment: EdgeMem and EcoTTA need it, and the rows ", warm" give it
to peers, so that what it gains is told from what the steps gain. Contexts are corruptions of
severity 5 of CIFAR-10's test images; those of a speaker are his or her recordings.

Columns, in per cent, all but *seeds* of the first seed, which every method has run with: *error*,
mean over contexts; *seeds*, its mean and standard deviation over seeds where there are several
(other seeds draw other images, so compare errors of one seed); *worst*, of 500 frames in a row;
*first*, of the first 128 frames after a change of context; *visit 1*, *2*, *last*; *forgets*, error
of the last visit less that of the best one before, mean over contexts (Chaudhry et al., ECCV 2018,
equation 3); *gains*, error of the first visit less that of the last (backward transfer as in
Lopez-Paz & Ranzato, NeurIPS 2017); *trend*, change of the error per 10,000 frames from the second
visit on, with its standard error; *source*, of clean source frames after the stream; *known*,
batches of a return whose context was recognised. *ms*: processor time per frame. *MB*: peak memory
of the process.
"""


def show(title: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One table: means over tasks."""
    print_table(title, *shown(rows))


def shown(rows: dict[str, list[dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Columns in which something stands, and rows."""
    held = [(name, *_figures(runs)) for name, runs in rows.items() if runs]
    columns = [k for k in range(len(COLUMNS)) if any(row[k] != NOTHING for row in held)]
    return [COLUMNS[k] for k in columns], [[row[k] for k in columns] for row in held]


def _figures(all_runs: list[dict[str, Any]]) -> tuple[str, ...]:
    errors, first = 100 * errors_by_seed(all_runs), min(run["seed"] for run in all_runs)
    runs = [run for run in all_runs if run["seed"] == first]
    visits = np.mean([run["by_visit"] for run in runs], 0)
    some = [visits[k] if k < len(visits) > 1 else None for k in (0, 1, len(visits) - 1)]
    return (
        f"{errors[0]:.1f}",
        f"{errors.mean():.1f}±{errors.std():.1f}" if len(errors) > 1 else NOTHING,
        *(_short(_mean(runs, key)) for key in ("worst", "first")),
        *map(_short, some),
        *(_short(_mean(runs, key)) for key in ("forgetting", "backward_transfer")),
        _trend(runs),
        *(_short(_mean(runs, key)) for key in ("source_after", "known")),
        f"{np.mean([run['ms_per_frame'] for run in runs]):.1f}",
        f"{max(run['peak_mb'] for run in runs):.0f}",
    )


def markdown(runs: Runs, about: str, command: str) -> str:
    """All tables and pictures as a page."""
    parts = [INTRODUCTION.format(command=command, about=about)]
    for title, rows in runs.items():
        columns, held = shown(rows)
        lines = [columns, ["---"] * len(columns), *held]
        parts.append(f"## {title}\n")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        parts.append(f"![Error over time, {title}]({PICTURES}/{picture(title)})\n")
    return "\n".join(parts)


def picture(protocol: str) -> str:
    """Its file's name."""
    return f"adaptation-{protocol.replace(', ', '-').replace(' ', '-')}.png"


def errors_by_seed(runs: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Mean over tasks, for each seed."""
    seeds = sorted({run["seed"] for run in runs})
    return np.array([np.mean([r["error"] for r in runs if r["seed"] == k]) for k in seeds])


def _mean(runs: list[dict[str, Any]], key: str) -> float | None:
    values = [run[key] for run in runs]
    return None if values[0] is None else float(np.mean(values))


def _short(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _trend(runs: list[dict[str, Any]]) -> str:
    slope, error = _mean(runs, "trend"), _mean(runs, "trend_error")
    if slope is None or error is None:
        return NOTHING
    return f"{100 * slope:+.2f}±{100 * error:.2f}"


def draw(out: Path, curves: Mapping[str, tuple[Stream, Mapping[str, Wrong]]]) -> None:
    """Rolling error over time, one picture a protocol.

    curves: by protocol, a stream and the wrong answers of every method on it.
    """
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    for protocol, (stream, answers) in curves.items():
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, wrong in answers.items():
            size = min(SMOOTHED, len(wrong))
            smooth = 100 * np.convolve(wrong, np.full(size, 1 / size), "valid")
            ours = name == "EdgeMem"
            axes.plot(smooth, label=name, linewidth=2.4 if ours else 0.9, zorder=3 if ours else 2)
        changes = np.flatnonzero(np.diff(stream.context)) + 1
        if len(changes) < 40:
            for change in changes:
                axes.axvline(change, color="0.85", linewidth=0.6, zorder=1)
        axes.set(xlabel="frames", ylabel="error (%)", title=protocol, ylim=(0, 100))
        axes.legend(fontsize=7, ncols=3)
        figure.savefig(out / picture(protocol), dpi=80)
