"""Methods of test-time adaptation under the protocols of devices: one runner, one table.

Every run (method, protocol, seed) has a process of its own; ours run without torch. Frames are
predicted before a method learns from them, except where it answers with what it has just learnt.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation.kept import REPOSITORY, kept, run_path
from benchmarks.adaptation.measures import Wrong, measures
from benchmarks.adaptation.methods import (
    METHODS,
    OURS,
    SHIPPED,
    TUNED,
    WARM,
    Ours,
    named,
    with_factor,
)
from benchmarks.adaptation.protocols import RETURNING, Protocol, pool_contexts, protocols
from benchmarks.adaptation.shipping import write_shipped, write_tuned
from benchmarks.adaptation.show import PICTURES, Runs, draw, markdown, show
from benchmarks.adaptation.streams import VISIT, Builder, Stream
from benchmarks.shared.cifar import data_folder
from benchmarks.shared.report import save_json, setting, setting_text, whole
from edgemem.cli.show import percent, progress
from edgemem.errors import EdgeMemError

SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"
QUICK = {"frames": 256, "images": 500, "visits": 3, "seeds": 1}
FULL = {"frames": 320, "images": 1000, "visits": 20, "seeds": 3}
QUICK_PROTOCOLS = ("continual", "recurring, correlated", "clean")
QUICK_METHODS = (
    "EdgeMem", "source", "batch statistics", "Tent", "ROID", "RoTTA", "LAME", "ROID, warm",
)  # fmt: skip
LONG_FRAMES = {True: 5120, False: 100_000}


@dataclass(frozen=True)
class Run:
    """One line of the work to do."""

    protocol: str
    task: str
    method: str
    seed: int


def prepare(data: Path, options: argparse.Namespace, folder: Path) -> None:
    """Frames, source data and streams, a folder for each task."""
    from benchmarks.adaptation.setups import write_pool, write_setup
    from benchmarks.adaptation.tasks import task_of

    tasks = sorted({run.task for run in options.runs})
    wanted = {name: pool_contexts(list(options.chosen.values()), name) for name in tasks}
    with progress("contexts") as bar:
        total = sum(len(contexts) for contexts in wanted.values())
        task_bar = bar.add_task("frames", total=total, note="")
        for name, contexts in wanted.items():
            task, place = task_of(name, data), folder / name
            write_pool(task, contexts, options.images, place,
                       lambda note: bar.update(task_bar, advance=1, note=note))  # fmt: skip
    for name in tasks:
        methods = {named(run.method)[0] for run in options.runs if run.task == name}
        warm, ecotta = not methods.isdisjoint(WARM), "EcoTTA" in methods
        write_setup(name, data, folder / name, warm=warm, ecotta=ecotta, quick=options.quick)
        (folder / name / "streams").mkdir()
    for name, task_name, seed in sorted(
        {(run.protocol, run.task, run.seed) for run in options.runs}
    ):
        protocol, labels = options.chosen[name], np.load(folder / task_name / "labels.npy")
        stream = protocol.make(Builder(labels, seed), protocol.contexts, options.frames)
        stream.save(folder / task_name / "streams" / f"{name}-{seed}.npz")


def prepare_bundles(
    data: Path, options: argparse.Namespace, folder: Path, runs: Sequence[Run]
) -> None:
    """The bundles that these runs open."""
    from benchmarks.adaptation.setups import write_bundles
    from benchmarks.adaptation.tasks import task_of

    ways = [(run, OURS[named(run.method)[0]]) for run in runs if named(run.method)[0] in OURS]
    for task in sorted({run.task for run, _ in ways}):
        needed = {way.bundle for run, way in ways if run.task == task}
        made = needed - {SHIPPED, TUNED} | ({"remembered"} if needed & {SHIPPED, TUNED} else set())
        write_bundles(task_of(task, data), sorted(made), folder / task, quick=options.quick)
        if TUNED in needed:
            write_tuned(folder / task)
    shipped = {(run.task, run.protocol) for run, way in ways if way.bundle == SHIPPED}
    for task, protocol in sorted(shipped):
        write_shipped(folder / task, protocol, options.chosen[protocol])


def work(options: argparse.Namespace) -> list[Run]:
    """Every method under every protocol with every seed, in every task of the protocol; the first
    seed first, so that an aborted table has whole seeds."""
    return [
        Run(name, task, with_factor(method, factor), seed)
        for seed, (name, protocol) in product(range(options.seeds), options.chosen.items())
        for method, factor in product(options.methods, options.rates or protocol.rates)
        for task in protocol.tasks
        if seed < (protocol.seeds if method in protocol.repeated else 1)
        and (options.chose_methods or method in protocol.methods)
        and (OURS.get(method, Ours()).bundle != SHIPPED or protocol.two_visits)
    ]


def make(folder: Path, run: Run, threads: int, path: Path) -> str | None:
    """Make a run whose outcome is not kept at the path yet; why it failed, or None."""
    if path.exists():
        return None
    words = (folder / run.task, run.method, run.protocol, run.seed, threads, path)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.adaptation.worker", *map(str, words)],
        check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return finished.stderr[-2000:] if finished.returncode else None


def make_all(folder: Path, options: argparse.Namespace, paths: Mapping[Run, Path]) -> Runs:
    """Figures of all runs, made where they are not kept."""
    runs: Runs = {name: {} for name in options.chosen}
    for run in options.runs:
        runs[run.protocol][run.method] = []
    with progress("runs") as bar, ThreadPoolExecutor(options.jobs) as pool:
        bar_task = bar.add_task("methods", total=len(paths), note="")
        waiting = [
            pool.submit(make, folder, run, options.threads, path) for run, path in paths.items()
        ]
        for (run, path), future in zip(paths.items(), waiting, strict=True):
            failed = future.result()
            title = f"{run.protocol}, {run.task}, {run.method}, seed {run.seed}"
            if failed is not None:
                bar.console.print(f"{title} failed and is left out:\n{failed}")
                bar.update(bar_task, advance=1)
                continue
            wrong, found = kept(path)
            found |= measures(wrong, Stream.load(stream_path(folder, run)))
            runs[run.protocol][run.method].append({"task": run.task, "seed": run.seed, **found})
            bar.update(bar_task, advance=1, note=f"{title}: {percent(found['error'])}")
    return runs


def stream_path(folder: Path, run: Run) -> Path:
    """Where its stream lies."""
    return folder / run.task / "streams" / f"{run.protocol}-{run.seed}.npz"


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    example = "example: python -m benchmarks.adaptation --quick --methods EdgeMem Tent"
    parser = argparse.ArgumentParser(
        prog="benchmarks.adaptation", description=__doc__, epilog=example
    )
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="a few of all, few frames, a short warm-up")
    add(
        "--methods",
        nargs="+",
        metavar="NAME",
        choices=METHODS,
        help="default those that a protocol is meant for",
    )
    add("--protocols", nargs="+", metavar="NAME", help="default all")
    add("--rates", nargs="+", type=float, metavar="FACTOR",
        help="of every method's learning rate; default the protocol's, mostly 1")  # fmt: skip
    add("--frames", type=whole, help="per context; default 320")
    add("--images", type=whole, help="different ones per context; default 1000")
    add("--visits", type=whole, help="of recurring contexts; default 20")
    add("--seeds", type=whole, help="default 3")
    add("--threads", type=whole, default=1, help="of one run; default 1")
    add("--jobs", type=whole, default=2, help="runs at a time; default 2")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="of the page and its pictures; default results",
    )
    options = parser.parse_args(arguments)
    options.words = sys.argv[1:] if arguments is None else arguments
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.chose_methods = options.methods is not None
    options.methods = options.methods or (QUICK_METHODS if options.quick else METHODS)
    options.chosen = _chosen(parser, options)
    options.runs = work(options)
    return options


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Protocol]:
    long_visits = -(-LONG_FRAMES[options.quick] // (VISIT * len(RETURNING)))
    known = protocols(options.visits, long_visits)
    for name in options.protocols or ():
        if name not in known:
            parser.error(f"unknown protocol {name!r}: choose from {', '.join(known)}")
    default = QUICK_PROTOCOLS if options.quick else tuple(known)
    return {name: known[name] for name in options.protocols or default}


def main() -> None:
    """Measure, print, save."""
    options, data = read_options(), data_folder()
    if data is None:
        print(SKIPPED)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
            folder = Path(text)
            prepare(data, options, folder)
            paths = {
                run: run_path(
                    folder / run.task, run.method, run.protocol, run.seed, options.threads
                )
                for run in options.runs
            }
            missing = [run for run, path in paths.items() if not path.exists()]
            prepare_bundles(data, options, folder, missing)
            runs = make_all(folder, options, paths)
            report(runs, options)
            draw(options.out / PICTURES, curves(folder, options, paths))
    except (EdgeMemError, OSError) as error:
        sys.exit(f"failed: {error}")


def curves(
    folder: Path, options: argparse.Namespace, paths: Mapping[Run, Path]
) -> dict[str, tuple[Stream, dict[str, Wrong]]]:
    """For pictures: the first seed of every protocol in its first task."""
    found = {}
    for name, protocol in options.chosen.items():
        runs = [
            run
            for run in paths
            if (run.protocol, run.task, run.seed) == (name, protocol.tasks[0], 0)
        ]
        answers = {run.method: kept(paths[run])[0] for run in runs if paths[run].exists()}
        found[name] = Stream.load(stream_path(folder, runs[0])), answers
    return found


def report(runs: Runs, options: argparse.Namespace) -> None:
    """Tables, and the figures as a file."""
    for name, rows in runs.items():
        show(name, rows)
    about = setting(**{k: getattr(options, k) for k in (*FULL, "threads", "jobs", "quick")})
    seeds = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    choices = f"{options.frames} frames per context, {seeds}, batch 64"
    print(setting_text(about, choices))
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.adaptation {shlex.join(options.words)}".strip()
    page = markdown(runs, setting_text(about, choices), command)
    (options.out / "results.md").write_text(page)
    found = {"benchmark": "adaptation", "setting": about, "results": runs}
    save_json(found, Path("results/adaptation.json"), options.json)


if __name__ == "__main__":
    main()
