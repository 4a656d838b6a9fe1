"""Tables, pictures and the page of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.class_incremental.methods import JOINT, METHODS, OURS, REPLAY_RIVAL, Numbers
from benchmarks.class_incremental.running import READINGS, Outcome
from benchmarks.class_incremental.split import Setting
from edgemem.accuracy import AccuracyMatrix, figures
from edgemem.cli.show import print_table

NOTHING = "–"
PICTURES = "results"
Outcomes = Mapping[str, Sequence[Outcome]]  # by method, one a seed
COLUMNS = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "AIA",
    "forgetting_from_earlier_best": "F earlier best",
    "forgetting_from_best": "F best",
    "forgetting_since_learnt": "F learnt",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
}
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Tried:
    """One run of the sweep; outcome: None if it diverged."""

    method: str
    numbers: Numbers
    outcome: Outcome | None


def readings(setting: Setting) -> list[str]:
    """Those that say something in this setting."""
    return [name for name in READINGS if setting.knows_tasks or name == "by_class"]


def table(outcomes: Outcomes, reading: str) -> Table:
    """A row a method: figures as means over seeds, in per cent, with their standard deviation."""
    rows = []
    for method, runs in outcomes.items():
        found = [figures(getattr(run, reading)) for run in runs]
        cells = [_cell([one[name] for one in found], method) for name in COLUMNS]
        stores = str(METHODS[method].stores or NOTHING) if method != JOINT else "all"
        rows.append([method, stores, *cells, f"{np.mean([run.seconds for run in runs]):.0f}"])
    return ["method", "stores", *COLUMNS.values(), "s"], rows


def _cell(values: Sequence[float | None], method: str) -> str:
    held = [value for value in values if value is not None]
    if not held:
        return NOTHING
    spread = f"±{100 * np.std(held):.1f}" if len(held) > 1 else ""
    return f"{100 * np.mean(held):.1f}{spread}"


def sweep_table(tried: Sequence[Tried]) -> Table:
    """A row a run; the first of a method has the numbers of the other tables."""
    rows, before = [], ""
    for one in tried:
        numbers = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in one.numbers.items())
        accuracies = ["diverged"] * len(READINGS)
        if one.outcome is not None:
            finals = (getattr(one.outcome, reading).values[-1] for reading in READINGS)
            accuracies = [f"{100 * row.mean():.1f}" for row in finals]
        rows.append([one.method, numbers, *accuracies, "chosen" if one.method != before else ""])
        before = one.method
    return ["method", "numbers", *READINGS.values(), ""], rows


def goals(settings: Sequence[tuple[Setting, Outcomes]]) -> Table:
    """Ours less each peer that it is to be above of: average accuracy in points, seed by seed."""
    peers = [
        name
        for name, method in METHODS.items()
        if name not in (OURS, JOINT)
        and not name.startswith(OURS)
        and (not method.stores or name == REPLAY_RIVAL)
    ]
    rows = []
    for setting, outcomes in settings:
        for reading in readings(setting):
            for peer in peers:
                # The paper claims to be above replay in the task-incremental reading only.
                if (peer == REPLAY_RIVAL and reading == "by_class") or not {OURS, peer} <= set(
                    outcomes
                ):
                    continue
                less = 100 * (_final(outcomes[OURS], reading) - _final(outcomes[peer], reading))
                each = " ".join(f"{value:+.1f}" for value in less)
                verdict = "met" if less.mean() > 0 else "missed"
                rows.append(
                    [
                        f"{setting.name}, {READINGS[reading]}",
                        peer,
                        f"{less.mean():+.1f}",
                        each,
                        verdict,
                    ]
                )
    return ["setting", "PRD less", "points", "by seed", "goal"], rows


def _final(runs: Sequence[Outcome], reading: str) -> NDArray[np.float64]:
    return np.array([getattr(run, reading).values[-1].mean() for run in runs])


def show(title: str, held: Table) -> None:
    """On standard output."""
    print_table(title, *held)


def as_markdown(held: Table) -> str:
    """A table of a page."""
    columns, rows = held
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def picture(setting: Setting, reading: str) -> str:
    """Its file's name."""
    return f"class-incremental-{setting.name.replace(' ', '')}-{READINGS[reading]}.png"


def draw(setting: Setting, outcomes: Outcomes, reading: str, path: Path) -> None:
    """Mean accuracy on all tasks so far after each, over seeds; joint training as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (method, runs) in enumerate(outcomes.items()):
        means = np.mean([course(getattr(run, reading)) for run in runs], 0)
        if method == JOINT:
            axes.axhline(100 * means[-1], color="0.4", linestyle="--", label=JOINT, linewidth=1.2)
            continue
        ours, stored = method == OURS, METHODS[method].stores > 0
        axes.plot(
            np.arange(1, len(means) + 1), 100 * means, label=method, color=f"C{number % 10}",
            linewidth=2.6 if ours else 1.2, zorder=3 if ours else 2, marker="o", markersize=3,
            linestyle=":" if stored else "-",
        )  # fmt: skip
    axes.set(
        xlabel="tasks learnt", ylabel="mean accuracy on them (%)", xlim=(0.9, setting.tasks + 0.1),
        xticks=range(1, setting.tasks + 1),
        title=f"{setting.name} classes, {READINGS[reading]} (dotted: stores samples)",
    )  # fmt: skip
    axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def course(matrix: AccuracyMatrix) -> list[float]:
    """Mean accuracy on the tasks so far, after each."""
    return [float(row[: number + 1].mean()) for number, row in enumerate(matrix.values)]
