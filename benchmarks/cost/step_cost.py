"""What an adaptation step costs beside plain inference, and beside the same step in torch eager.

Random weights: time does not depend on them. Methods take turns, so that ratios hold on a machine
whose speed drifts; before each timed call comes a pause, in which the threads of the method before
fall asleep, and one call that is not timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cost.step_cost_model import (
    HP,
    NETWORKS,
    STATISTICS,
    adaptive_model,
    write_frozen,
    write_steps,
)
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table, progress

if TYPE_CHECKING:
    from rich.progress import TaskID

PAUSE = 0.05
KINDS = ("predict", "meta", "full")
COLOURS = {"predict": "#3a7ebf", "meta": "#d1495b", "full": "#7b2d3b"}
Times = dict[str, float]


def torch_calls(name: str, statistics: str, batch: int, learn: str) -> dict[str, Callable[[], Any]]:
    """Frozen forward pass and both steps in torch eager."""
    import torch

    from edgemem.export.functions.objective import ecotta

    adaptive = adaptive_model(name, statistics, learn)
    x, objective, block = torch.rand(batch, *NETWORKS[name][2]), ecotta(10), adaptive.block()
    hp = {k: torch.tensor(v) for k, v in (objective.hyper_parameters | HP).items()}
    weight = adaptive.alpha(batch)
    alpha = None if weight is None else torch.tensor(weight)
    optimizer = torch.optim.SGD(block.values(), 1e-3, 0.9)

    def frozen() -> None:
        with torch.no_grad():
            adaptive.frozen_logits(x)

    def step(gradient: str) -> None:
        adaptive.gradient = gradient
        loss = objective.loss(adaptive(x, alpha), hp).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        adaptive.gradient = "full"

    return {
        "torch frozen": frozen,
        f"torch {statistics} meta": lambda: step("meta"),
        f"torch {statistics} full": lambda: step("full"),
    }


def onnx_call(path: Path, inputs: Path | None, threads: int) -> Callable[[], Any]:
    """One graph with the runtime's own options; a plain model with those of onnxruntime."""
    import onnxruntime

    from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend

    if inputs is not None:
        graph = OnnxRuntimeBackend(threads).open(path)
        with np.load(inputs) as values:
            feeds = {name: values[name] for name in graph.inputs}
        return lambda: graph.run(feeds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options)
    (only,) = session.get_inputs()
    x = np.random.default_rng(0).random(only.shape, np.float32)
    return lambda: session.run(None, {only.name: x})


def time_all(
    calls: dict[str, Callable[[], Any]], repeats: int, advance: Callable[[], None]
) -> Times:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began))
        advance()
    return {name: float(np.median(values)) for name, values in times.items()}


def measure(
    name: str, batch: int, options: argparse.Namespace, note: Callable[[str], None]
) -> Times:
    """Milliseconds of all calls for one network and batch; note: called with each stage."""
    import torch

    threads = options.threads
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        folder = Path(text)
        note("export")
        write_frozen(name, batch, folder / "frozen.onnx")
        calls = {"frozen": onnx_call(folder / "frozen.onnx", None, threads)}
        for statistics in STATISTICS:
            place = folder / statistics
            place.mkdir()
            model = adaptive_model(name, statistics, options.learn)
            write_steps(model, batch, place, KINDS[1:])
            for kind in KINDS:
                call = onnx_call(place / f"{kind}.onnx", place / "inputs.npz", threads)
                calls[f"{statistics} {kind}"] = call
            calls |= torch_calls(name, statistics, batch, options.learn)
        return time_all(calls, options.repeats, lambda: note("timing"))


def show(title: str, times: Times) -> None:
    """One table: ours, beside the frozen forward pass and beside torch."""
    frozen = times["frozen"]
    rows = [("frozen", f"{frozen:.1f}", "1.00", f"{times['torch frozen']:.1f}", "")]
    for name in (f"{statistics} {kind}" for statistics in STATISTICS for kind in KINDS):
        theirs = times.get(f"torch {name}")
        other = ("–", "") if theirs is None else (f"{theirs:.1f}", f"{theirs / times[name]:.2f}")
        rows.append((name, f"{times[name]:.1f}", f"{times[name] / frozen:.2f}", *other))
    print_table(title, ("what", "ms", "x frozen", "torch ms", "torch / ours"), rows)


def draw(path: Path, results: dict[str, Times]) -> None:
    """Ratios to the frozen forward pass, one picture a kind of statistics."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(len(STATISTICS), sharex=True)
    for axes, statistics in zip(panels, STATISTICS, strict=True):
        bars = [(f"{statistics} {kind}", COLOURS[kind], None) for kind in KINDS]
        bars += [(f"torch {statistics} {kind}", COLOURS[kind], "//") for kind in KINDS[1:]]
        width = 0.8 / len(bars)
        for number, (row, colour, hatch) in enumerate(bars):
            heights = [times[row] / times["frozen"] for times in results.values()]
            places = np.arange(len(heights)) + number * width
            style = {"color": colour, "hatch": hatch, "alpha": 0.5 if hatch else 1.0}
            drawn = axes.bar(places, heights, width, label=row, **style)
            axes.bar_label(drawn, fmt="%.1f", fontsize=6)
        axes.axhline(1, color="black", linewidth=0.5)
        axes.set_xticks(np.arange(len(results)) + 0.4, list(results), fontsize=7)
        axes.set(ylabel="frozen forward pass = 1", title=f"{statistics} statistics")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = command_line(
        __doc__,
        "benchmarks.cost.step_cost --quick --json s.json",
        quick="one network (ResNet-20), batch 16 only",
        threads=2,
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default all")
    parser.add_argument(
        "--learn", choices=("all", "norms"), default="all",
        help="of the meta networks: everything, or scales and shifts of norms; default all",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, help="timed calls of each; default 15, quick 5")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (5 if options.quick else 15)
    options.networks = options.networks or (["ResNet-20"] if options.quick else list(NETWORKS))
    return options


def main() -> None:
    """Measure, print, save."""
    options = read_options()
    cases = [(name, batch) for name in options.networks for batch in (16, 64)]
    if options.quick:
        cases = [(name, 16) for name in options.networks[:1]]
    results = {}
    with progress("stages") as bar:
        for name, batch in cases:
            title = f"{name}, batch {batch}"
            task = bar.add_task(title, total=options.repeats + 1, note="")

            def note(stage: str, task: TaskID = task) -> None:
                bar.update(task, advance=1, note=stage)

            results[title] = measure(name, batch, options, note)
    for title, times in results.items():
        show(title, times)
    about = setting(threads=options.threads, repeats=options.repeats, learn=options.learn)
    choices = f"learns {options.learn}; {options.threads} threads, median of {options.repeats}"
    print(setting_text(about, choices))
    found = {"benchmark": "step_cost", "setting": about, "results": results}
    stem = "step_cost" if options.learn == "all" else f"step_cost_{options.learn}"
    save_json(found, options.out / f"{stem}.json", options.json)
    draw(options.out / f"{stem}.png", results)
    print(f"Picture: {options.out / stem}.png")


if __name__ == "__main__":
    main()
