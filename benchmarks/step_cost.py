"""What an adaptation step costs: time against a frozen forward pass and torch, and memory.

Random weights: neither time nor memory depends on them. Every method runs once a round, one after
another, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from common import make_parser, print_setting, setting, write_json
from numpy.typing import NDArray

import edgemem
from edgemem.bundle import open_bundle
from edgemem.cli.show import print_table, progress
from edgemem.runtime.contract import prefixed
from edgemem.runtime.onnxruntime_backend import OnnxRuntimeBackend

if TYPE_CHECKING:
    from edgemem.models import AdaptiveModel

PARTS = {
    "resnet20": ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"),
    "wrn40_2": ("block1[0:3]", "block1[3:6]", "block2", "block3"),
}
GRADIENTS: tuple[Literal["meta", "full"], ...] = ("meta", "full")
FROZEN, PREDICT = "frozen forward", "predict"
# Method -> graph file in the folder of one case.
GRAPHS = {
    FROZEN: "frozen.onnx",
    PREDICT: "meta.edgemem/predict.onnx",
    "step, meta": "meta.edgemem/adapt.onnx",
    "step, full": "full.edgemem/adapt.onnx",
}
COLOURS = ("#9a9a9a", "#3a7ebf", "#e8909b", "#d1495b", "#c7b37f", "#8f7a3d")
MARGIN = {"entropy_margin": 1e3}  # every sample counts
PAUSE = 0.02  # seconds; lets the threads of the method before stop waiting for work
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 7, 30, 30.0
PACKAGES = ("edgemem", "numpy", "onnxruntime", "torch", "onnx")
Frames = NDArray[np.float32]
Call = Callable[[], Any]


def adaptive(name: str) -> AdaptiveModel:
    """A model with all of its meta networks, as after a warm-up."""
    import torch

    from edgemem.models import attach, networks

    torch.manual_seed(0)
    plain = getattr(networks, name)().eval()
    model = attach(plain, PARTS[name], torch.zeros(2, *plain.input_shape))
    for meta in model.meta_networks():
        assert meta.branch_norm is not None
        torch.nn.init.normal_(meta.branch_norm.weight, std=0.1)
    model.mark_warm()
    return model


def export_case(name: str, x: Frames, folder: Path, advance: Callable[[], None]) -> None:
    """Write the frozen graph and a bundle for each gradient path."""
    import torch

    from edgemem.export import Choices, export_bundle, parity
    from edgemem.models import networks

    parity.STEPS = 2  # the check itself has tests; its 20 steps would take most of the time here
    torch.manual_seed(0)
    plain, frozen = getattr(networks, name)().eval(), folder / GRAPHS[FROZEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(plain, (torch.from_numpy(x),), frozen, dynamo=True, verbose=False)
    advance()
    for gradient in GRADIENTS:
        choices = Choices(batch=len(x), gradient=gradient, hyper_parameters=MARGIN)
        export_bundle(adaptive(name), folder / f"{gradient}.edgemem", choices)
        advance()


def save_feeds(folder: Path, x: Frames) -> Path:
    """All inputs of all graphs of one case; both bundles have the same block and slots."""
    manifest = (bundle := open_bundle(folder / "full.edgemem")).manifest
    scalars = {n: np.float32(h.default) for n, h in manifest.hyper_parameters.items()}
    graph = OnnxRuntimeBackend().open(folder / GRAPHS[FROZEN])
    feeds = {
        **dict.fromkeys(graph.inputs, x),
        "x": x,
        **prefixed("block", bundle.generic),
        **prefixed("opt", manifest.slots.zero()),
        **{f"hp.{n}": np.asarray(v) for n, v in scalars.items()},
    }
    path = folder / "feeds.npz"
    np.savez(path, **feeds)
    return path


def eager_step(name: str, x: Frames, gradient: Literal["meta", "full"]) -> Call:
    """The same step in torch: forward, loss, backward on the block, SGD with momentum."""
    import torch

    from edgemem.export.objective import ecotta

    model = adaptive(name)
    model.gradient = gradient
    frames, alpha = torch.from_numpy(x), torch.tensor(model.alpha(len(x)))
    objective = ecotta(10)
    values = objective.hyper_parameters | MARGIN
    scalars = {key: torch.tensor(value) for key, value in values.items()}
    optimizer = torch.optim.SGD(model.block().values(), lr=1e-3, momentum=0.9)

    def step() -> NDArray[np.float32]:
        output = model(frames, alpha)
        result = objective.loss(output, scalars)
        optimizer.zero_grad()
        result.value.backward()
        if result.update:
            optimizer.step()
        logits: NDArray[np.float32] = output.logits.detach().numpy()
        return logits

    return step


def make_calls(
    name: str, x: Frames, folder: Path, threads: int, stack: ExitStack
) -> tuple[dict[str, Call], list[edgemem.Runtime]]:
    """Every method as a function without arguments, and the runtimes that adapt."""
    frozen = OnnxRuntimeBackend(threads).open(folder / GRAPHS[FROZEN])
    feeds = dict.fromkeys(frozen.inputs, x)
    meta = folder / "meta.edgemem"
    predicting = stack.enter_context(edgemem.open(meta, adapt=False, threads=threads))
    stepping = [
        stack.enter_context(edgemem.open(folder / f"{g}.edgemem", threads=threads))
        for g in GRADIENTS
    ]
    calls: dict[str, Call] = {
        FROZEN: lambda: frozen.run(feeds),
        PREDICT: lambda: predicting.predict(x),
    }
    for gradient, runtime in zip(GRADIENTS, stepping, strict=True):
        calls[f"step, {gradient}"] = lambda runtime=runtime: runtime.step(x)
    for gradient in GRADIENTS:
        calls[f"torch step, {gradient}"] = eager_step(name, x, gradient)
    return calls, stepping


def interleave(calls: Mapping[str, Call], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every method in every round; each is run once untimed just before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def measure_times(name: str, x: Frames, folder: Path, options: argparse.Namespace) -> Any:
    """Median milliseconds of every method, with ratios."""
    rounds = LEAST_ROUNDS if options.quick else MOST_ROUNDS
    with ExitStack() as stack:
        calls, stepping = make_calls(name, x, folder, options.threads, stack)
        times = interleave(calls, rounds, SECONDS)
        if any(r.counters["updates"] != r.counters["steps"] for r in stepping):
            sys.exit(f"{name}: a step did not update, so its time is not that of a step")
    medians = {method: statistics.median(values) for method, values in times.items()}
    return {
        method: {
            "ms": ms,
            "ms_least": min(times[method]),
            "rounds": len(times[method]),
            "ratio_to_frozen": ms / medians[FROZEN],
            "ratio_to_torch": ms / medians[t] if (t := f"torch {method}") in medians else None,
        }
        for method, ms in medians.items()
    }


def measure_memory(graph: Path, feeds: Path, threads: int) -> dict[str, float]:
    """MB after loading and at the peak, in a process of its own without torch."""
    program = "import sys, common; common.print_session_memory(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(graph), str(feeds), str(threads)]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_case(
    name: str, batch: int, options: argparse.Namespace, advance: Callable[[], None]
) -> dict[str, Any]:
    """One model at one batch size."""
    shape = (batch, 3, 32, 32)
    x = np.random.default_rng(0).random(shape, np.float32)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as temporary:
        folder = Path(temporary)
        export_case(name, x, folder, advance)
        feeds = save_feeds(folder, x)
        rows = measure_times(name, x, folder, options)
        advance()
        for method, graph in GRAPHS.items():
            rows[method] |= measure_memory(folder / graph, feeds, options.threads)
        advance()
    return {"model": name, "batch": batch, "methods": rows}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark."""
    import torch

    torch.set_num_threads(options.threads)
    names, batches = (["resnet20"], [16]) if options.quick else (list(PARTS), [16, 64])
    described = setting(PACKAGES, models=", ".join(names), batches=batches, threads=options.threads)
    cases = []
    with progress("stages") as bar:
        for name in names:
            for batch in batches:
                task = bar.add_task(f"{name}, batch {batch}", total=5, note="")
                cases.append(
                    measure_case(
                        name, batch, options, lambda task=task: bar.update(task, advance=1)
                    )
                )
    return {"benchmark": "step_cost", "setting": described, "cases": cases}


def show(found: dict[str, Any]) -> None:
    """One table for each model and batch size, and the setting."""

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    for case in found["cases"]:
        rows = [
            (
                method,
                number(row["ms"], 1),
                number(row["ratio_to_frozen"], 2),
                number(row["ratio_to_torch"], 2),
                number(row.get("mb_loaded"), 1),
                number(row.get("mb_peak"), 1),
            )
            for method, row in case["methods"].items()
        ]
        rounds = case["methods"][FROZEN]["rounds"]
        print_table(
            f"{case['model']}, batch {case['batch']}: median of {rounds} rounds; memory added",
            ("method", "ms", "x frozen", "x torch", "MB loaded", "MB peak"),
            rows,
        )
    print_setting(found["setting"])


def draw(found: dict[str, Any], path: Path) -> None:
    """Ratios to the frozen forward pass on the left, peak memory on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    cases, axes = found["cases"], figure.subplots(1, 2)
    labels = [f"{case['model']}\nbatch {case['batch']}" for case in cases]
    panels = (("ratio_to_frozen", "time / frozen forward"), ("mb_peak", "memory at the peak (MB)"))
    for panel, (key, title) in zip(axes, panels, strict=True):
        methods = [m for m, row in cases[0]["methods"].items() if key in row]
        for i, method in enumerate(methods):
            values = [case["methods"][method][key] for case in cases]
            places = np.arange(len(cases)) + (i - (len(methods) - 1) / 2) * 0.8 / len(methods)
            colour = COLOURS[list(cases[0]["methods"]).index(method)]
            bars = panel.bar(places, values, 0.76 / len(methods), label=method, color=colour)
            panel.bar_label(bars, fmt="%.1f" if key == "ratio_to_frozen" else "%.0f", fontsize=6)
        panel.set(title=title, xticks=range(len(cases)), xticklabels=labels)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7, loc="upper left")
        panel.margins(y=0.3)
        panel.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    options = make_parser(__doc__, "ResNet-20 at batch 16 only, few rounds").parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = run(options)
    write_json(options.json, found)
    show(found)
    draw(found, options.out / "step_cost.png")
    print(f"Picture: {options.out / 'step_cost.png'}")


if __name__ == "__main__":
    main()
