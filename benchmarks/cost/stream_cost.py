"""What a stream costs per frame: steps on one batch in n or on drift, and steps in the background.

Ways take turns, round by round, each on a runtime of its own; a round is so many batches of the
demo's kind of stream, random frames whose contexts change. Latency is that of calls with one frame.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgemem
from benchmarks.cost.step_cost_model import HP, NETWORKS, adaptive_model
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table, progress

BATCH = 16
NAME = "ResNet-20"
WAYS: dict[str, dict[str, Any]] = {
    "predict only": {"adapt": False},
    "a step on every batch": {"options": edgemem.Options(adapt_when=1)},
    "on one in 2": {"options": edgemem.Options(adapt_when=2)},
    "on one in 5": {"options": edgemem.Options(adapt_when=5)},
    "on one in 10": {"options": edgemem.Options(adapt_when=10)},
}
LATENCIES: dict[str, dict[str, Any]] = {
    "predict only": {"adapt": False, "threads": 1},
    "step in front": {"threads": 1},
    "step in the background": {"options": edgemem.Options(background=True), "threads": 1},
}


def frames(count: int, seed: int) -> Any:
    """Random frames."""
    shape = NETWORKS[NAME][2]
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def throughput(path: Path, rounds: int, batches: int, threads: int, advance: Any) -> Any:
    """Milliseconds per frame of every way."""
    runtimes = {
        name: edgemem.open(path, threads=threads, hyper_parameters=HP, **way)
        for name, way in WAYS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    x = frames(batches * BATCH, 0)
    for _ in range(rounds + 1):
        for name, runtime in runtimes.items():
            began = time.perf_counter()
            for start in range(0, len(x), BATCH):
                runtime.step(x[start : start + BATCH])
            times[name].append(1000 * (time.perf_counter() - began) / len(x))
        advance()
    for runtime in runtimes.values():
        runtime.close()
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def latency(path: Path, rounds: int, batches: int, advance: Any) -> Any:
    """Median, p99 and largest milliseconds of calls with one frame."""
    runtimes = {
        name: edgemem.open(path, hyper_parameters=HP, **way) for name, way in LATENCIES.items()
    }
    x, times = frames(batches * BATCH, 1), {name: list[float]() for name in LATENCIES}
    for number in range(rounds + 1):
        for name, runtime in runtimes.items():
            for frame in x:
                began = time.perf_counter()
                runtime.step(frame)
                if number:
                    times[name].append(1000 * (time.perf_counter() - began))
            runtime.flush()
        advance()
    steps = {name: runtime.counters["steps"] for name, runtime in runtimes.items()}
    for runtime in runtimes.values():
        runtime.close()
    return {
        name: {
            "p50": float(np.percentile(values, 50)),
            "p99": float(np.percentile(values, 99)),
            "steps": steps[name],
        }
        for name, values in times.items()
    }


def show(found: Any) -> None:
    """Two tables."""
    base = found["throughput"]["predict only"]
    rows = [(name, f"{ms:.3f}", f"{ms / base:.2f}") for name, ms in found["throughput"].items()]
    print_table(f"{NAME}, batches of {BATCH}", ("way", "ms per frame", "ratio"), rows)
    base = found["latency"]["predict only"]
    rows = [
        (name, f"{row['p50']:.1f}", f"{row['p99']:.1f}", f"{row['p99'] / base['p99']:.2f}",
         str(row["steps"]))
        for name, row in found["latency"].items()
    ]  # fmt: skip
    headings = ("calls with one frame", "p50 ms", "p99 ms", "p99 ratio", "steps")
    print_table(f"{NAME}, one thread to predict", headings, rows)


def draw(path: Path, found: Any) -> None:
    """Cost per frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(found["throughput"]), list(found["throughput"].values()), color="#3a7ebf")
    axes.bar_label(bars, fmt="%.2f")
    axes.tick_params(axis="x", labelrotation=20)
    axes.set(ylabel="ms per frame", title=f"Cost of a stream, {NAME}")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, save."""
    from edgemem.export import Choices, export_bundle

    parser = command_line(
        __doc__, "benchmarks.cost.stream_cost --quick", quick="3 rounds instead of 15", threads=2
    )
    options = parser.parse_args()
    rounds, batches = (3 if options.quick else 15), 20
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text, progress("rounds") as bar:
        path = Path(text, "stream.edgemem")
        export_bundle(adaptive_model(NAME, "mix"), path, Choices(BATCH, "meta", "all", "ecotta"))
        task = bar.add_task("stream", total=2 * (rounds + 1), note="")

        def advance() -> None:
            bar.update(task, advance=1)

        found = {
            "throughput": throughput(path, rounds, batches, options.threads, advance),
            "latency": latency(path, rounds, batches // 4, advance),
        }
    show(found)
    about = setting(threads=options.threads, rounds=rounds)
    print(setting_text(about, f"{options.threads} threads, {rounds} rounds"))
    save_json({"benchmark": "stream_cost", "setting": about, "results": found},
              options.out / "stream_cost.json", options.json)  # fmt: skip
    draw(options.out / "stream_cost.png", found)
    print(f"Picture: {options.out / 'stream_cost.png'}")


if __name__ == "__main__":
    main()
