"""What EdgeMem adds to a start: from nothing to the first prediction, beside bare onnxruntime.

Every start is a fresh process. Both open the same graph with the same options and predict the same
batch once; the bare one checks nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import make_parser, print_setting, setting, write_json

from edgemem.bundle import open_bundle
from edgemem.cli.show import print_table, progress
from edgemem.demo import BUNDLE

TARGET = 1.3  # whole process, EdgeMem / bare
PARTS = ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3")
BATCH = 16
STAGES = ("import", "open", "predict")
PACKAGES = ("edgemem", "numpy", "onnxruntime", "safetensors")
EDGEMEM = """
import sys, time
t0 = time.perf_counter()
import numpy as np
import edgemem
edgemem.open
t1 = time.perf_counter()
runtime = edgemem.open(sys.argv[1], threads=int(sys.argv[2]))
t2 = time.perf_counter()
runtime.predict(np.zeros(eval(sys.argv[3])["x"], np.float32))
t3 = time.perf_counter()
print([t1 - t0, t2 - t1, t3 - t2])
"""
BARE = """
import sys, time
t0 = time.perf_counter()
import numpy as np
import onnxruntime
t1 = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(
    sys.argv[1] + "/predict.onnx", options, providers=["CPUExecutionProvider"]
)
t2 = time.perf_counter()
session.run(None, {name: np.zeros(s, np.float32) for name, s in eval(sys.argv[3]).items()})
t3 = time.perf_counter()
print([t1 - t0, t2 - t1, t3 - t2])
"""
PROGRAMS = {"edgemem": EDGEMEM, "bare onnxruntime": BARE}
COLOURS = ("#9a9a9a", "#3a7ebf", "#d1495b")


def export_resnet(folder: Path) -> Path:
    """A ResNet-20 with random weights, not warmed up, as a bundle."""
    import torch

    from edgemem.export import Choices, export_bundle
    from edgemem.models import attach
    from edgemem.models.networks import resnet20

    torch.manual_seed(0)
    model, path = attach(resnet20().eval(), PARTS, torch.zeros(2, 3, 32, 32)), folder / "r.edgemem"
    export_bundle(model, path, Choices(batch=BATCH, gradient="meta"))
    return path


def feed_shapes(bundle: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every input of `predict`."""
    import onnx

    graph = onnx.load(bundle / "predict.onnx", load_external_data=False).graph
    batch = open_bundle(bundle).manifest.frames.batch
    return {
        value.name: tuple(d.dim_value or batch for d in value.type.tensor_type.shape.dim)
        for value in graph.input
    }


def start(program: str, bundle: Path, threads: int, shapes: str) -> dict[str, float]:
    """Milliseconds of one fresh process: the whole of it, and its stages."""
    command = [sys.executable, "-c", program, str(bundle), str(threads), shapes]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - began
    stages = dict(zip(STAGES, json.loads(done.stdout), strict=True))
    return {name: 1000 * value for name, value in {"process": whole, **stages}.items()}


def measure(bundle: Path, repetitions: int, threads: int) -> dict[str, Any]:
    """Medians of both programs; the first start of each only warms the disk cache."""
    shapes = repr(feed_shapes(bundle))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    with progress("starts") as bar:
        task = bar.add_task(bundle.stem, total=repetitions + 1, note="")
        for repetition in range(repetitions + 1):
            for name, program in PROGRAMS.items():
                times = start(program, bundle, threads, shapes)
                if repetition:
                    found[name].append(times)
            bar.update(task, advance=1)
    return {
        name: {key: statistics.median(t[key] for t in times) for key in times[0]}
        for name, times in found.items()
    }


def ratios(programs: dict[str, dict[str, float]]) -> dict[str, float]:
    """EdgeMem / bare: of the whole process, and from the first import to the first prediction."""
    ours, bare = (programs[name] for name in PROGRAMS)
    stages = sum(ours[s] for s in STAGES) / sum(bare[s] for s in STAGES)
    return {"process": ours["process"] / bare["process"], "stages": stages}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark."""
    repetitions = 3 if options.quick else 10
    described = setting(
        PACKAGES,
        models="digits, resnet20",
        batch=BATCH,
        threads=options.threads,
        starts=repetitions,
    )
    rows = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        bundles = {"digits (demo)": BUNDLE, "resnet20": export_resnet(Path(folder))}
        for name, bundle in bundles.items():
            programs = measure(bundle, repetitions, options.threads)
            rows[name] = {"programs": programs, "ratio": ratios(programs)}
    met = all(row["ratio"]["process"] <= TARGET for row in rows.values())
    return {
        "benchmark": "startup",
        "setting": described,
        "rows": rows,
        "target": TARGET,
        "met": met,
    }


def show(found: dict[str, Any]) -> None:
    """The table, the target and the setting."""
    rows = []
    for bundle, row in found["rows"].items():
        for name, times in row["programs"].items():
            figures = [f"{times[key]:.0f}" for key in (*STAGES, "process")]
            rows.append((f"{bundle}: {name}", *figures))
        ratio = row["ratio"]
        stages = f"{ratio['stages']:.2f}"
        rows.append(
            ("  ratio (stages together, process)", "", "", stages, f"{ratio['process']:.2f}")
        )
    print_table("Start to first prediction, median ms", ("", *STAGES, "process"), rows)
    verdict = "met" if found["met"] else "MISSED"
    print(f"Target: process ratio at most {found['target']}: {verdict}")
    print_setting(found["setting"])


def draw(found: dict[str, Any], path: Path) -> None:
    """Stacked bars: where the time of each start goes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    starts = [
        (f"{bundle}\n{name}", times)
        for bundle, row in found["rows"].items()
        for name, times in row["programs"].items()
    ]
    labels, left = [label for label, _ in starts], np.zeros(len(starts))
    rest = [times["process"] - sum(times[s] for s in STAGES) for _, times in starts]
    parts = [*((s, [times[s] for _, times in starts]) for s in STAGES), ("interpreter", rest)]
    for (stage, values), colour in zip(parts, (*COLOURS, "#dddddd"), strict=True):
        axes.barh(labels, values, left=left, label=stage, color=colour)
        left += values
    axes.invert_yaxis()
    axes.set(xlabel="ms", title="From a fresh process to the first prediction")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    options = make_parser(__doc__, "3 starts instead of 10").parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = run(options)
    write_json(options.json, found)
    show(found)
    draw(found, options.out / "startup.png")
    print(f"Picture: {options.out / 'startup.png'}")


if __name__ == "__main__":
    main()
