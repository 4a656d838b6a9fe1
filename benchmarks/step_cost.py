"""What an adaptation step costs beside plain inference, and beside the same step in torch eager.

Random weights: time does not depend on them. Methods take turns, so that ratios hold on a machine
whose speed drifts; before each timed call comes a pause, in which the threads of the method before
fall asleep, and one call that is not timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from report import save_json, setting, setting_text

from edgemem.cli.show import print_table, progress

if TYPE_CHECKING:
    from rich.progress import TaskID

MEMORY = Path(__file__).with_name("step_cost_memory.py")
PAUSE = 0.05

MODELS = {
    "resnet20": ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"),
    "wrn40_2": ("block1[0:3]", "block1[3:6]", "block2", "block3"),
}
HP = {"entropy_margin": 100.0}  # every sample counts
ROWS = {  # and the colour in the picture: light for torch
    "frozen": "#9a9a9a",
    "predict": "#3a7ebf",
    "step (meta)": "#d1495b",
    "step (full)": "#7b2d3b",
    "torch frozen": "#d5d5d5",
    "torch step (meta)": "#eeb4bc",
    "torch step (full)": "#c79aa3",
}


def adaptive_model(name: str) -> Any:
    """A model with live meta networks, as after a warm-up."""
    import torch

    from edgemem.models import attach, networks

    torch.manual_seed(0)
    model = getattr(networks, name)().eval()
    adaptive = attach(model, MODELS[name], torch.rand(2, 3, 32, 32))
    for meta in adaptive.meta_networks():
        torch.nn.init.uniform_(meta.branch_norm.weight, 0.05, 0.15)
    adaptive.mark_warm()
    return adaptive


def export_all(name: str, batch: int, folder: Path) -> Any:
    """The plain frozen graph (BN folded by the exporter) and both bundles."""
    import torch

    from edgemem.export import Choices, export_bundle
    from edgemem.models import networks

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    frozen = getattr(networks, name)().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        exported = torch.onnx.export(
            frozen, (torch.rand(batch, 3, 32, 32),), dynamo=True, verbose=False
        )
    exported.save(folder / "frozen.onnx")
    for gradient in ("meta", "full"):
        adaptive = adaptive_model(name)
        export_bundle(adaptive, folder / f"{gradient}.edgemem", Choices(batch, gradient))
    return adaptive


def torch_steps(adaptive: Any, x: Any) -> dict[str, Callable[[], Any]]:
    """The same forward pass and steps in torch eager."""
    import torch

    from edgemem.export.objective import ecotta

    objective, block = ecotta(10), adaptive.block()
    hp = {k: torch.tensor(v) for k, v in (objective.hyper_parameters | HP).items()}
    alpha = torch.tensor(adaptive.alpha(len(x)))
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
        "torch step (meta)": lambda: step("meta"),
        "torch step (full)": lambda: step("full"),
    }


def onnx_steps(folder: Path, x: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """Frozen forward, prediction and steps in onnxruntime."""
    import onnxruntime

    import edgemem

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(folder / "frozen.onnx"), options)
    name = session.get_inputs()[0].name
    meta, full = (
        edgemem.open(folder / f"{g}.edgemem", threads=threads, hyper_parameters=HP)
        for g in ("meta", "full")
    )
    return {
        "frozen": lambda: session.run(None, {name: x}),
        "predict": lambda: meta.predict(x),
        "step (meta)": lambda: meta.step(x),
        "step (full)": lambda: full.step(x),
    }


def time_all(
    calls: dict[str, Callable[[], Any]], repeats: int, advance: Callable[[], None]
) -> dict[str, float]:
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


def memory_of(folder: Path, row: str, batch: int, threads: int) -> dict[str, float]:
    """MB that the graph of a row adds by loading, and more while it runs."""
    bundle = folder / ("full.edgemem" if "full" in row else "meta.edgemem")
    graph = bundle / ("predict.onnx" if row == "predict" else "adapt.onnx")
    if row == "frozen":
        graph = folder / "frozen.onnx"
    words = (sys.executable, MEMORY, graph, "-" if row == "frozen" else bundle, batch, threads)
    finished = subprocess.run(
        [str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(finished.stdout)
    return found


def measure(
    name: str, batch: int, options: argparse.Namespace, note: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """All rows for one model and batch; note: called with each stage."""
    import torch

    threads = options.threads
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        folder = Path(text)
        note("export")
        adaptive = export_all(name, batch, folder)
        x = torch.rand(batch, 3, 32, 32)
        calls = onnx_steps(folder, x.numpy(), threads) | torch_steps(adaptive, x)
        note("timing")
        times = time_all(calls, options.repeats, lambda: note("timing"))
        note("memory")
        memory = {row: memory_of(folder, row, batch, threads) for row in list(ROWS)[:4]}
    return {
        row: {"ms": times[row], "ratio": times[row] / times["frozen"], **memory.get(row, {})}
        for row in ROWS
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """One table."""
    table = [
        (
            name,
            f"{row['ms']:.1f}",
            f"{row['ratio']:.2f}",
            *(f"{row[key]:.0f}" if key in row else "–" for key in ("loaded_mb", "running_mb")),
        )
        for name, row in rows.items()
    ]
    print_table(title, ("what", "ms", "x frozen", "MB loaded", "MB more in a run"), table)


def draw(path: Path, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Ratios to the frozen forward pass, one group of bars a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(ROWS)
    for number, (row, colour) in enumerate(ROWS.items()):
        heights = [rows[row]["ratio"] for rows in results.values()]
        places = np.arange(len(heights)) + number * width
        bars = axes.bar(places, heights, width, label=row, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(np.arange(len(results)) + 0.4, list(results))
    axes.set(ylabel="time, frozen forward pass = 1", title="Cost of a step")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/step_cost.py --quick --json s.json"
    )
    parser.add_argument("--quick", action="store_true", help="ResNet-20, batch 16 only")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--repeats", type=int, help="timed calls of each; default 15, quick 5")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (5 if options.quick else 15)
    return options


def main() -> None:
    """Measure, print, save."""
    options = read_options()
    cases = [(m, b) for m in MODELS for b in (16, 64)][: 1 if options.quick else None]
    results = {}
    with progress("stages") as bar:
        for name, batch in cases:
            title = f"{name}, batch {batch}"
            task = bar.add_task(title, total=options.repeats + 3, note="")

            def note(stage: str, task: TaskID = task) -> None:
                bar.update(task, advance=1, note=stage)

            results[title] = measure(name, batch, options, note)
    for title, rows in results.items():
        show(title, rows)
    about = setting(threads=options.threads, repeats=options.repeats)
    print(setting_text(about, f"{options.threads} threads, median of {options.repeats}"))
    found = {"benchmark": "step_cost", "setting": about, "results": results}
    save_json(found, options.out / "step_cost.json", options.json)
    draw(options.out / "step_cost.png", results)
    print(f"Picture: {options.out / 'step_cost.png'}")


if __name__ == "__main__":
    main()
