"""Networks of average accuracy, with all defaults: is adapting ever worse than not adapting?

Each network is trained for a short time, warmed up and exported by default. Streams of 2,000
frames: the source's own, a mild and a strong shift, and mild ones with correlated labels. Beside
the frozen model stands the same bundle without a step (learning rate 0).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptation.streams import by_slots
from benchmarks.shared.cifar import data_folder
from benchmarks.shared.report import command_line, save_json, setting, setting_text, whole
from edgemem.cli.show import print_table, progress

NETWORKS = ("narrow", "wide", "patterns", "speech")
STREAMS = ("clean", "mild", "strong", "correlated")
BATCHES = (4, 16, 64)
FRAMES, WINDOW = 2000, 500
SETTLED = 500  # frames before the first window counts
GOAL = -1.0  # points
NO_DATA = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and fsdd/"


@dataclass(frozen=True)
class Run:
    """One stream through one bundle."""

    network: str
    stream: str
    batch: int
    seed: int


def frames_of(folder: Path, run: Run) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Frames and labels of a stream: context after context, each in an order of its own."""
    kind = "mild" if run.stream == "correlated" else run.stream
    rng, parts = np.random.default_rng(run.seed), []
    with np.load(folder / f"{run.network}.npz") as held:
        count = sum(name.startswith(f"{kind}-x-") for name in held.files)
        for number in range(count):
            x, y = held[f"{kind}-x-{number}"], held[f"{kind}-y-{number}"]
            rounds = -(-FRAMES // (count * len(y)))  # of few frames, each as often as the others
            chosen = np.concatenate([rng.permutation(len(y)) for _ in range(rounds)])
            chosen = chosen[: FRAMES // count]
            if run.stream == "correlated":
                chosen = chosen[by_slots(y[chosen], rng)]
            parts.append((x[chosen], y[chosen]))
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def measure(folder: Path, run: Run) -> dict[str, Any]:
    """Whether each answer is right: frozen, without a step, by default; how often rails spoke."""
    import edgemem
    from edgemem.runtime.result import GUARD_RAILS

    x, y = frames_of(folder, run)
    bundle, found = folder / f"{run.network}-{run.batch}.edgemem", dict[str, Any]()
    for way in ("frozen", "no step", "default"):
        changed = {"learning_rate": 0.0} if way == "no step" else {}
        labels, rails = [], 0
        with edgemem.open(bundle, threads=1, hyper_parameters=changed) as runtime:
            found["rate"] = runtime.bundle.manifest.hyper_parameters["learning_rate"].default
            for start in range(0, len(x), run.batch):
                frames = x[start : start + run.batch]
                answer = (
                    runtime.predict(frames, frozen=True)
                    if way == "frozen"
                    else runtime.step(frames)
                )
                labels.append(answer.labels)
                rails += sum(event.kind in GUARD_RAILS for event in answer.events)
        found[way] = (np.concatenate(labels) == y).astype(int).tolist()
        found[f"{way}, rails"] = rails
    return found


def figures(found: dict[str, Any], stream: str) -> dict[str, float]:
    """Accuracies, and the least difference to what the stream's goal compares with, in points."""
    right = {way: np.asarray(found[way], float) for way in ("frozen", "no step", "default")}
    result = {way: 100 * float(values.mean()) for way, values in right.items()}
    if stream == "clean":
        gain = right["default"] - right["frozen"]
        ends = range(SETTLED + WINDOW, len(gain) + 1)
        sums = np.concatenate([[0.0], np.cumsum(gain)])
        result["gain"] = min(
            (100 * float(sums[end] - sums[end - WINDOW]) / WINDOW for end in ends), default=0.0
        )
    else:
        result["gain"] = result["default"] - result["no step"]
    return result | {"rails": float(found["default, rails"]), "rate": float(found["rate"])}


def all_runs(seeds: int, quick: bool) -> list[Run]:
    """What there is to do."""
    networks = NETWORKS[-2:] if quick else NETWORKS
    return [Run(*names) for names in product(networks, STREAMS, BATCHES, range(seeds))]


def make(folder: Path, run: Run) -> dict[str, Any]:
    """A run in a process of its own, without torch."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.average",
        "--run",
        str(folder),
        json.dumps(vars(run)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rows_of(runs: Iterable[Run], found: dict[Run, dict[str, float]]) -> list[tuple[str, ...]]:
    """Means over networks and seeds, and the worst, for every stream and batch size."""
    rows = []
    for stream, batch in product(STREAMS, BATCHES):
        these = {run: found[run] for run in runs if (run.stream, run.batch) == (stream, batch)}
        worst = min(these, key=lambda run: these[run]["gain"])
        means = [
            f"{np.mean([figures[way] for figures in these.values()]):.1f}"
            for way in ("frozen", "no step", "default")
        ]
        rows.append((stream, str(batch), *means, f"{these[worst]['gain']:+.1f}", worst.network))
    return rows


def draw(path: Path, found: dict[Run, dict[str, float]]) -> None:
    """The difference of every run, by stream."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for number, batch in enumerate(BATCHES):
        these = [(run, held["gain"]) for run, held in found.items() if run.batch == batch]
        places = [STREAMS.index(run.stream) + 0.2 * (number - 1) for run, _ in these]
        axes.plot(places, [gain for _, gain in these], "o", alpha=0.5, label=f"batch {batch}")
    axes.axhline(GOAL, color="grey", linestyle="--", label="goal")
    axes.set_xticks(range(len(STREAMS)), STREAMS)
    axes.set_ylabel("points against the reference")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, save."""
    parser = command_line(
        __doc__, "benchmarks.average --quick", quick="two small networks, one seed"
    )
    parser.add_argument("--seeds", type=whole, help="of the streams; default 3")
    parser.add_argument("--jobs", type=whole, default=2, help="runs at a time; default 2")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options, data = parser.parse_args(), data_folder()
    if options.run is not None:
        print(json.dumps(measure(Path(options.run[0]), Run(**json.loads(options.run[1])))))
        return
    if data is None:
        print(NO_DATA)
        return
    seeds = options.seeds or (1 if options.quick else 3)
    runs = all_runs(seeds, options.quick)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text, progress("runs") as bar:
        from benchmarks.average.model import write_bundles

        folder, networks = Path(text), list(dict.fromkeys(run.network for run in runs))
        task = bar.add_task("networks", total=len(networks), note="")
        for name in networks:
            write_bundles(name, data, BATCHES, folder)
            bar.update(task, advance=1, note=name)
        task = bar.add_task("streams", total=len(runs), note="")
        with ThreadPoolExecutor(options.jobs) as pool:
            answers = []
            for answer in pool.map(lambda run: make(folder, run), runs):
                answers.append(answer)
                bar.update(task, advance=1)
    found = {run: figures(a, run.stream) for run, a in zip(runs, answers, strict=True)}
    report(found, seeds, options)


def report(found: dict[Run, dict[str, float]], seeds: int, options: argparse.Namespace) -> None:
    """Table, picture, figures."""
    columns = ("stream", "batch", "frozen", "no step", "default", "worst", "of")
    print_table("accuracy in per cent; networks and seeds together", columns, rows_of(found, found))
    rates = {(run.network, run.batch): held["rate"] for run, held in found.items()}
    print_table("learning rate chosen at export", ("network", *map(str, BATCHES)), [
        (name, *(f"{rates[name, batch]:g}" for batch in BATCHES))
        for name in dict.fromkeys(network for network, _ in rates)
    ])  # fmt: skip
    print(
        f"worst, in points. clean: least difference to the frozen model in {WINDOW} frames after\n"
        f"the first {SETTLED}; else difference to no step over {FRAMES} frames.\n"
        f"Goal: above {GOAL:g}."
    )
    about = setting(seeds=seeds, quick=options.quick, frames=FRAMES)
    print(setting_text(about, f"{FRAMES} frames a stream, {seeds} seeds, defaults as exported"))
    results = [vars(run) | held for run, held in found.items()]
    save_json({"benchmark": "average_networks", "setting": about, "results": results},
              options.out / "average_networks.json", options.json)  # fmt: skip
    draw(options.out / "average_networks.png", found)


if __name__ == "__main__":
    main()
