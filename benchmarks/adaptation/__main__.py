"""Methods of test-time adaptation under the protocols of devices: one runner, one table.

Every run (method, protocol, seed) has a process of its own; ours run without torch. Frames are
predicted before a method learns from them, except where it answers with what it has just learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from cifar import data_folder
from report import save_json, setting, setting_text, whole

from adaptation.methods import METHODS, OURS, SHIPPED, WARM, named, with_factor
from adaptation.protocols import Protocol, pool_contexts, protocols
from adaptation.show import Runs, draw, markdown, show
from adaptation.streams import Builder
from edgemem.cli.show import percent, progress
from edgemem.errors import EdgeMemError

SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"
QUICK = {"frames": 256, "images": 500, "visits": 3, "seeds": 1}
FULL = {"frames": 2000, "images": 2000, "visits": 20, "seeds": 3}
QUICK_PROTOCOLS = ("continual", "recurring, correlated", "clean")
QUICK_METHODS = (
    "EdgeMem", "source", "batch statistics", "Tent", "ROID", "RoTTA", "LAME", "ROID, warm",
)  # fmt: skip
LONG_FRAMES = {True: 5120, False: 100_000}


def prepare(data: Path, options: argparse.Namespace, folder: Path) -> None:
    """Frames, source data, bundles and streams, a folder for each task."""
    from adaptation.setups import write_bundles, write_pool, write_setup
    from adaptation.shipping import write_shipped
    from adaptation.tasks import task_of

    methods = [named(name)[0] for name in options.methods]
    tasks = sorted({name for protocol in options.chosen.values() for name in protocol.tasks})
    wanted = {name: pool_contexts(list(options.chosen.values()), name) for name in tasks}
    with progress("contexts") as bar:
        total = sum(len(contexts) for contexts in wanted.values())
        task_bar = bar.add_task("frames", total=total, note="")
        for name, contexts in wanted.items():
            task, place = task_of(name, data), folder / name
            write_pool(task, contexts, options.images, place,
                       lambda note: bar.update(task_bar, advance=1, note=note))  # fmt: skip
    for name in tasks:
        warm, ecotta = any(method in WARM for method in methods), "EcoTTA" in methods
        write_setup(name, data, folder / name, warm=warm, ecotta=ecotta, quick=options.quick)
        needed = {OURS[method].bundle for method in methods if method in OURS}
        made = sorted(needed - {SHIPPED} | ({"remembered"} if SHIPPED in needed else set()))
        write_bundles(task_of(name, data), made, folder / name, quick=options.quick)
        (folder / name / "streams").mkdir()
    for (name, protocol), seed in product(options.chosen.items(), range(options.seeds)):
        for task_name in protocol.tasks:
            labels = np.load(folder / task_name / "labels.npy")
            frames = round(options.frames * protocol.share)
            stream = protocol.make(Builder(labels, seed), protocol.contexts, frames)
            stream.save(folder / task_name / "streams" / f"{name}-{seed}.npz")
    if "EdgeMem, shipped levels" in methods:
        for name, protocol in options.chosen.items():
            write_shipped(folder / protocol.tasks[0], name, protocol)


def run(folder: Path, method: str, protocol: str, seed: int, threads: int) -> dict[str, Any]:
    """Figures of one run. folder: of its task."""
    words = ("-m", "adaptation.worker", folder, method, protocol, seed, threads)
    benchmarks = Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(benchmarks)}
    finished = subprocess.run(
        [sys.executable, *map(str, words)],
        check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if finished.returncode:
        return {"failed": finished.stderr[-2000:]}
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def run_all(folder: Path, options: argparse.Namespace) -> Runs:
    """Every method under every protocol with every seed, in every task of the protocol."""
    tasks = [
        (protocol, task, method, seed)
        for protocol, method, seed in product(options.chosen, options.methods, range(options.seeds))
        for task in options.chosen[protocol].tasks
    ]
    runs: Runs = {name: {method: [] for method in options.methods} for name in options.chosen}
    with progress("runs") as bar, ThreadPoolExecutor(options.jobs) as pool:
        bar_task = bar.add_task("methods", total=len(tasks), note="")
        waiting = [
            pool.submit(run, folder / task, method, protocol, seed, options.threads)
            for protocol, task, method, seed in tasks
        ]
        for (protocol, task, method, seed), future in zip(tasks, waiting, strict=True):
            found, title = future.result(), f"{protocol}, {task}, {method}, seed {seed}"
            if "failed" in found:
                bar.console.print(f"{title} failed and is left out:\n{found['failed']}")
                bar.update(bar_task, advance=1)
                continue
            runs[protocol][method].append({"task": task, "seed": seed, **found})
            bar.update(bar_task, advance=1, note=f"{title}: {percent(found['error'])}")
    return runs


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    example = "example: python -m adaptation --quick --protocols continual --methods EdgeMem Tent"
    parser = argparse.ArgumentParser(prog="adaptation", description=__doc__, epilog=example)
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="a few of all, few frames, a short warm-up")
    add("--protocols", nargs="+", metavar="NAME", help="default all")
    add("--methods", nargs="+", metavar="NAME", choices=METHODS, help="default all")
    add("--rates", nargs="+", type=float, default=[1.0], metavar="FACTOR",
        help="of every method's learning rate, to sweep it")  # fmt: skip
    add("--frames", type=whole, help="per context; default 2000")
    add("--images", type=whole, help="different ones per context; default 2000")
    add("--visits", type=whole, help="of recurring contexts; default 20")
    add("--seeds", type=whole, help="default 3")
    add("--threads", type=whole, default=1, help="of one run; default 1")
    add("--jobs", type=whole, default=2, help="runs at a time; default 2")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    methods = options.methods or (QUICK_METHODS if options.quick else METHODS)
    options.methods = [with_factor(name, k) for name in methods for k in options.rates]
    options.chosen = _chosen(parser, options)
    return options


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Protocol]:
    long_visits = LONG_FRAMES[options.quick] // 2560
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
            runs = run_all(folder, options)
            report(runs, options)
            draw(options.out, folder, options, runs)
    except (EdgeMemError, OSError) as error:
        sys.exit(f"failed: {error}")


def report(runs: Runs, options: argparse.Namespace) -> None:
    """Tables, and the figures as a file."""
    for name, rows in runs.items():
        show(name, rows)
    about = setting(**{k: getattr(options, k) for k in (*FULL, "threads", "jobs", "quick")})
    choices = f"{options.frames} frames per context, {options.seeds} seeds, batch 64"
    print(setting_text(about, choices))
    options.out.mkdir(parents=True, exist_ok=True)
    page = markdown(runs, setting_text(about, choices))
    (options.out / "adaptation.md").write_text(page)
    found = {"benchmark": "adaptation", "setting": about, "results": runs}
    save_json(found, options.out / "adaptation.json", options.json)


if __name__ == "__main__":
    main()
