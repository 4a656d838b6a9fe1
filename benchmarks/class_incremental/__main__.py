"""Classes learnt one task after another: PRD and its peers on one network, in one order.

Every run gives two matrices of accuracies; tables, pictures and goals are computed from them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.class_incremental.kept import keep, kept, matrix_path, run_path
from benchmarks.class_incremental.methods import METHODS, Numbers
from benchmarks.class_incremental.page import page
from benchmarks.class_incremental.peers.base import Diverged
from benchmarks.class_incremental.running import READINGS, Outcome, run
from benchmarks.class_incremental.show import (
    PICTURES,
    Outcomes,
    Tried,
    draw,
    goals,
    picture,
    readings,
    show,
    sweep_table,
    table,
)
from benchmarks.class_incremental.split import Dataset, Setting, load, split
from benchmarks.shared.cifar import data_folder
from benchmarks.shared.report import save_json, setting, setting_text, whole
from edgemem.accuracy import figures, write_accuracy
from edgemem.cli.show import percent, progress
from edgemem.errors import EdgeMemError

SKIPPED = (
    "skipped: no {dataset} in the benchmark data; set EDGEMEM_DATA to a folder with {dataset}/"
)
NO_GPU = "skipped: --long needs a GPU, and torch finds none"
RESULTS = Path("results")
SWEEP_SEED = 100
FIVE = Setting("5 x 2", "cifar10", 10, 2, 400, 200, epochs=8)
TEN = Setting("10 x 1", "cifar10", 10, 1, 200, 200, epochs=4)
LONG = Setting("20 x 5", "cifar100", 100, 5, 500, 100, epochs=50, channels=20, blocks=2, pool=False)
QUICK = replace(FIVE, train_per_class=100, test_per_class=100, epochs=4)
Note = Callable[[str], None]


class Bench:
    """The runs of an invocation: made where they are not kept."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.device = torch.device("cuda" if options.long else "cpu")
        self._data: dict[str, tuple[Dataset, Dataset]] = {}

    def missing(self) -> str | None:
        """A data set that is not there."""
        for name in {chosen.dataset for chosen in self.options.chosen}:
            held = load(self.folder, name)
            if held is None:
                return name
            self._data[name] = held
        return None

    def outcome(self, method: str, numbers: Numbers, chosen: Setting, seed: int) -> Outcome:
        """Of one run; its matrices lie in `results/class-incremental` too."""
        tasks = split(self._data[chosen.dataset], chosen, seed)
        where = f"{self.device.type}, {self.options.threads}"
        path = run_path(method, numbers, chosen, tasks, seed, where)
        found = kept(path)
        if found is None:
            found = run(method, numbers, chosen, tasks, seed, self.device)
            keep(path, found)
        values = "".join(f", {k} {v:g}" for k, v in numbers.items())
        name = f"{chosen.name}, {method}{values}, seed {seed}".replace(" ", "-").replace(",", "")
        place = RESULTS / "class-incremental" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        for reading in READINGS:
            write_accuracy(getattr(found, reading), matrix_path(place, reading))
        return found

    def table(self, chosen: Setting, note: Note) -> Outcomes:
        """Of all methods with all seeds; the first seed first."""
        found: dict[str, list[Outcome]] = {name: [] for name in self.options.methods}
        for seed in range(self.options.seeds):
            for name in self.options.methods:
                one = self.outcome(name, METHODS[name].chosen, chosen, seed)
                found[name].append(one)
                note(f"{chosen.name}, {name}, seed {seed}: {_final(one)}")
        return found

    def sweep(self, note: Note) -> list[Tried]:
        """Other numbers than the chosen ones, in the first setting."""
        found = []
        for name in self.options.methods:
            for numbers in METHODS[name].variants():
                try:
                    one = self.outcome(name, numbers, self.options.chosen[0], SWEEP_SEED)
                except Diverged:
                    one = None
                found.append(Tried(name, numbers, one))
                note(f"numbers tried, {name}: {'diverged' if one is None else _final(one)}")
        return found


def _final(outcome: Outcome) -> str:
    return percent(figures(outcome.by_class)["average_accuracy"])


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` and `--long` choose other settings."""
    example = "example: python -m benchmarks.class_incremental --quick --methods PRD LwF"
    parser = argparse.ArgumentParser(
        "benchmarks.class_incremental", description=__doc__, epilog=example
    )
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="5 x 2 with few images and epochs, one seed, no sweep")
    add("--long", action="store_true", help="20 tasks of CIFAR-100 on a GPU, no sweep")
    add("--methods", nargs="+", metavar="NAME", choices=METHODS, default=list(METHODS),
        help="default all")  # fmt: skip
    add("--settings", nargs="+", metavar="NAME", help="default all of '5 x 2', '10 x 1'")
    add("--seeds", type=whole, help="default 3")
    add("--threads", type=whole, default=1, help="default 1")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER",
        help="of the page and its pictures; default results")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.quick and options.long:
        parser.error("choose --quick or --long")
    options.words = sys.argv[1:] if arguments is None else arguments
    options.seeds = options.seeds or (1 if options.quick else 3)
    known = [QUICK] if options.quick else [LONG] if options.long else [FIVE, TEN]
    names = options.settings or [one.name for one in known]
    for name in set(names) - {one.name for one in known}:
        parser.error(f"unknown setting {name!r}: choose from {[one.name for one in known]}")
    options.chosen = [one for one in known if one.name in names]
    options.sweeps = not (options.quick or options.long)
    return options


def main() -> None:
    """Measure, print, save."""
    options, folder = read_options(), data_folder()
    if options.long and not torch.cuda.is_available():
        print(NO_GPU)
        return
    bench = None if folder is None else Bench(folder, options)
    missing = options.chosen[0].dataset if bench is None else bench.missing()
    if bench is None or missing is not None:
        print(SKIPPED.format(dataset=missing))
        return
    torch.set_num_threads(options.threads)
    try:
        found, tried = measure(bench, options)
        report(found, tried, options)
    except (EdgeMemError, OSError, Diverged) as error:
        sys.exit(f"failed: {error}")


def measure(
    bench: Bench, options: argparse.Namespace
) -> tuple[list[tuple[Setting, Outcomes]], list[Tried]]:
    """All runs, behind a bar."""
    variants = sum(len(METHODS[name].variants()) for name in options.methods)
    total = len(options.chosen) * len(options.methods) * options.seeds
    with progress("runs") as bar:
        task = bar.add_task("learning", total=total + variants * options.sweeps, note="")

        def note(text: str) -> None:
            bar.update(task, advance=1, note=text)

        found = [(chosen, bench.table(chosen, note)) for chosen in options.chosen]
        return found, bench.sweep(note) if options.sweeps else []


def report(
    found: Sequence[tuple[Setting, Outcomes]], tried: Sequence[Tried], options: argparse.Namespace
) -> None:
    """Tables on standard output; page, pictures and figures as files."""
    for chosen, outcomes in found:
        for reading in readings(chosen):
            show(f"{chosen.name} classes, {READINGS[reading]}", table(outcomes, reading))
            draw(chosen, outcomes, reading, options.out / PICTURES / picture(chosen, reading))
    if tried:
        show(f"Numbers tried on seed {SWEEP_SEED}", sweep_table(tried))
    show("Goals", goals(found))
    about = setting(seeds=options.seeds, threads=options.threads, quick=options.quick)
    seeds = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    text = setting_text(about, f"{seeds}, {options.threads} thread(s)")
    print(text)
    command = f"python -m benchmarks.class_incremental {shlex.join(options.words)}".strip()
    options.out.mkdir(parents=True, exist_ok=True)
    written = page(found, tried, text, command, SWEEP_SEED)
    (options.out / "class-incremental-results.md").write_text(written)
    save_json(_document(found, tried, about), RESULTS / "class-incremental.json", options.json)


def _document(
    found: Sequence[tuple[Setting, Outcomes]], tried: Sequence[Tried], about: Mapping[str, Any]
) -> dict[str, Any]:
    settings = [
        {
            **asdict(chosen),
            "methods": {name: [_figures(run) for run in runs] for name, runs in outcomes.items()},
        }
        for chosen, outcomes in found
    ]
    sweep = [
        {"method": t.method, **t.numbers, **(_figures(t.outcome) if t.outcome else {})}
        for t in tried
    ]
    return {"benchmark": "class_incremental", "setting": about, "results": settings, "sweep": sweep}


def _figures(outcome: Outcome) -> dict[str, Any]:
    held = {reading: figures(getattr(outcome, reading)) for reading in READINGS}
    return {**held, "seconds": outcome.seconds}


if __name__ == "__main__":
    main()
