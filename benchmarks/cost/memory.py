"""How much memory a step takes: its plans, a whole process, and weights that two graphs share.

Every figure comes from a process of its own without torch, which loads and runs graphs as the
runtime does. Memory is anonymous memory (Linux): what the system cannot drop. The peak of a whole
process is its largest resident set.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cost.step_cost_model import (
    STATISTICS,
    adaptive_model,
    enlivened,
    write_frozen,
    write_steps,
)
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table, progress

CHILD = Path(__file__).with_name("memory_worker.py")
PLANS = {"fast": "", "balanced": "_balanced", "lean": "_lean"}
STEP_BATCH, PROCESS_BATCH = 64, 16
WIDE = (4, 8)  # WRN-28-8: 23 million parameters
Found = dict[str, Any]


def child(kind: str, *words: object) -> dict[str, float]:
    """What one worker measured."""
    command = [sys.executable, str(CHILD), kind, *map(str, words)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(finished.stdout)
    return found


def plans(folder: Path, name: str, batch: int, threads: int) -> Found:
    """MB above the loaded session, of the frozen model and of every plan of both gradients."""
    write_frozen(name, batch, folder / "frozen.onnx")
    found = {"frozen": child("graph", folder / "frozen.onnx", "-", "latency", threads)}
    for statistics in STATISTICS:
        place = folder / statistics
        place.mkdir()
        write_steps(adaptive_model(name, statistics), batch, place, ("meta", "full"))
        for gradient in ("meta", "full"):
            for plan, ending in PLANS.items():
                path = place / f"{gradient}{ending}.onnx"
                if path.exists():
                    row = child("graph", path, place / "inputs.npz", "latency", threads)
                    found[f"{statistics} {gradient}, {plan}"] = row
    return found


def process(folder: Path, threads: int) -> Found:
    """Peak MB of a process that opens a bundle and adapts on a stream."""
    from edgemem.export import Choices, export_bundle

    found = {}
    for gradient in ("meta", "full"):
        path = folder / f"{gradient}.edgemem"
        export_bundle(
            adaptive_model("ResNet-20", "mix"),
            path,
            Choices(PROCESS_BATCH, gradient, "all", "ecotta"),
        )
        for budget in ("none", "least"):
            found[f"{gradient}, budget {budget}"] = child("process", path, budget, threads)
    return found


def shared(folder: Path, threads: int) -> Found:
    """Anonymous MB of a large frozen model with both graphs open, by profile."""
    import torch

    from edgemem.models import attach
    from edgemem.models.networks.wide_resnet import WideResNet

    torch.manual_seed(0)
    model = WideResNet(*WIDE).eval()
    parts = ("block1", "block2", "block3")
    adaptive = attach(model, parts, torch.rand(2, 3, 32, 32), statistics="mix")
    write_steps(enlivened(adaptive), 4, folder, ("meta",))
    weights = sum(p.numel() for p in model.parameters()) * 4e-6
    rows = {profile: child("shared", folder, profile, threads) for profile in ("latency", "memory")}
    return {"weights_mb": weights, **rows}


def show(found: Found) -> None:
    """Three tables."""
    rows = found["plans"]
    frozen = rows["frozen"]["running_mb"]
    table = [
        (name, f"{row['loaded_mb']:.0f}", f"{row['running_mb']:.0f}",
         f"{row['running_mb'] / frozen:.2f}", f"{row['ms']:.0f}")
        for name, row in rows.items()
    ]  # fmt: skip
    headings = ("plan", "MB loaded", "MB more in a run", "x frozen", "ms")
    print_table(f"WRN-40-2, batch {STEP_BATCH}", headings, table)
    table = [
        (name, row["plan"], f"{row['imports_mb']:.0f}", f"{row['peak_mb']:.0f}")
        for name, row in found["process"].items()
    ]
    headings = ("gradient", "plan", "MB imported", "peak MB")
    print_table(f"process, ResNet-20, batch {PROCESS_BATCH}", headings, table)
    table = [
        (profile, f"{row['loaded_mb']:.0f}", f"{row['running_mb']:.0f}")
        for profile, row in found["shared"].items()
        if profile != "weights_mb"
    ]
    title = f"predict and adapt open, {found['shared']['weights_mb']:.0f} MB of weights"
    print_table(title, ("profile", "MB loaded", "MB more in a run"), table)


def draw(path: Path, found: Found) -> None:
    """Memory and time of the plans."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, row in found["plans"].items():
        axes.plot(row["ms"], row["running_mb"], "o", color="black" if name == "frozen" else None)
        axes.annotate(name, (row["ms"], row["running_mb"]), fontsize=7, xytext=(4, 3),
                      textcoords="offset points")  # fmt: skip
    axes.set(xlabel="ms", ylabel="MB above the loaded session", title="Plans of a step")
    axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, save."""
    parser = command_line(
        __doc__,
        "benchmarks.cost.memory --quick --json m.json",
        quick="ResNet-20 instead of WRN-40-2",
        threads=2,
    )
    options = parser.parse_args()
    name, threads = "ResNet-20" if options.quick else "WRN-40-2", options.threads
    parts: dict[str, Callable[[Path], Found]] = {
        "plans": lambda folder: plans(folder, name, STEP_BATCH, threads),
        "process": lambda folder: process(folder, threads),
        "shared": lambda folder: shared(folder, threads),
    }
    found: Found = {}
    with progress("parts") as bar:
        task = bar.add_task("memory", total=len(parts), note="")
        for part, measure in parts.items():
            with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
                found[part] = measure(Path(text))
            bar.update(task, advance=1, note=part)
    show(found)
    about = setting(threads=threads, network=name)
    print(setting_text(about, f"{threads} threads"))
    save_json({"benchmark": "memory", "setting": about, "results": found},
              options.out / "memory.json", options.json)  # fmt: skip
    draw(options.out / "memory.png", found)
    print(f"Picture: {options.out / 'memory.png'}")


if __name__ == "__main__":
    main()
