"""What an adaptation step costs beside plain inference, and beside the same step in torch eager.

Random weights: time does not depend on them. Repetitions of all methods are interleaved, so that
ratios hold on a machine whose speed drifts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.cli.show import print_table

MODELS = {
    "resnet20": ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"),
    "wrn40_2": ("block1[0:3]", "block1[3:6]", "block2", "block3"),
}
HP = {"entropy_margin": 100.0}  # every sample counts
ROWS = (
    "frozen",
    "predict",
    "step (meta)",
    "step (full)",
    "torch frozen",
    "torch step (meta)",
    "torch step (full)",
)


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

    torch.manual_seed(0)
    frozen = getattr(networks, name)().eval()
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


def time_all(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, interleaved, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in times.items()}


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def measure_memory(folder: Path, row: str, batch: int, threads: int) -> None:
    """In a process of its own: MB that onnxruntime adds by loading, and at the peak of three runs."""
    import onnxruntime  # noqa: F401 - part of the baseline

    from edgemem.runtime.memory import peak_rss_mb

    x = np.random.default_rng(0).random((batch, 3, 32, 32), np.float32)
    before, peak_before = anonymous_mb(), peak_rss_mb()
    call = onnx_row(folder, row, x, threads)
    loaded = anonymous_mb() - before
    for _ in range(3):
        call()
    assert "torch" not in sys.modules
    print(json.dumps({"load_mb": loaded, "peak_mb": peak_rss_mb() - peak_before}))


def onnx_row(folder: Path, row: str, x: Any, threads: int) -> Callable[[], Any]:
    """One row of `onnx_steps` without loading the others; its graphs are open on return."""
    import onnxruntime

    import edgemem

    if row == "frozen":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(str(folder / "frozen.onnx"), options)
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})
    bundle = folder / ("full.edgemem" if "full" in row else "meta.edgemem")
    runtime = edgemem.open(bundle, threads=threads, hyper_parameters=HP)
    if row == "predict":
        return lambda: runtime.predict(x)
    runtime._adapt_graph = runtime._open_graph("adapt")
    return lambda: runtime.step(x)


def run_memory(folder: Path, row: str, batch: int, threads: int) -> dict[str, float]:
    """`measure_memory` in a fresh process."""
    arguments = [sys.executable, __file__, "--memory", row, str(folder), str(batch), str(threads)]
    finished = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(finished.stdout)
    return found


def measure(name: str, batch: int, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """All rows for one model and batch."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        adaptive = export_all(name, batch, folder)
        x = torch.rand(batch, 3, 32, 32)
        calls = onnx_steps(folder, x.numpy(), threads) | torch_steps(adaptive, x)
        times = time_all(calls, repeats)
        memory = {row: run_memory(folder, row, batch, threads) for row in ROWS[:4]}
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
            *(f"{row[key]:.0f}" if key in row else "–" for key in ("load_mb", "peak_mb")),
        )
        for name, row in rows.items()
    ]
    print_table(title, ("what", "ms", "x frozen", "MB loaded", "MB at peak"), table)


def draw(path: Path, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Ratios to the frozen forward pass, one group of bars a setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(ROWS)
    for number, row in enumerate(ROWS):
        heights = [rows[row]["ratio"] for rows in results.values()]
        axes.bar(np.arange(len(heights)) + number * width, heights, width, label=row)
    axes.set_xticks(np.arange(len(results)) + 0.4, list(results))
    axes.set(ylabel="time, frozen forward pass = 1", title="Cost of a step")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, save."""
    if sys.argv[1:2] == ["--memory"]:
        row, folder, batch, threads = sys.argv[2:6]
        measure_memory(Path(folder), row, int(batch), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ResNet-20, batch 16 only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args()
    settings = [(m, b) for m in MODELS for b in (16, 64)][: 1 if options.quick else None]
    results = {}
    for name, batch in settings:
        title = f"{name}, batch {batch}"
        results[title] = measure(name, batch, options.threads, 3 if options.quick else 9)
        show(f"{title}, {options.threads} threads, {date.today()}", results[title])
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out / "step_cost.png", results)
    for path in filter(None, (options.out / "step_cost.json", options.json)):
        path.write_text(json.dumps({"date": str(date.today()), "results": results}, indent=1))


if __name__ == "__main__":
    main()
