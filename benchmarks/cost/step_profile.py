"""Where the time of a step goes: the engine's own profile, by kind of operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.cost.step_cost_model import (
    NETWORKS,
    STATISTICS,
    adaptive_model,
    write_frozen,
    write_steps,
)
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table

RUNS = 15
SMALL = 8192  # elements; operators on less are counted together


def profile(path: Path, inputs: Path | None, threads: int, prefix: Path) -> dict[str, float]:
    """Kind of operator -> milliseconds, the median of each node over the runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_mem_pattern = False
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    session = onnxruntime.InferenceSession(str(path), options)
    if inputs is None:
        (only,) = session.get_inputs()
        feeds = {only.name: np.random.default_rng(0).random(only.shape, np.float32)}
    else:
        with np.load(inputs) as values:
            feeds = {value.name: values[value.name] for value in session.get_inputs()}
    for _ in range(RUNS):
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"], kind(event["args"])].append(event["dur"] / 1000)
    found: dict[str, float] = defaultdict(float)
    for (_, name), values in times.items():
        found[name] += float(np.median(values))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def kind(event: dict[str, Any]) -> str:
    """Convolutions by kernel, small operators together, the rest by name."""
    shapes = [
        next(iter(entry.values()))
        for entry in [*event["input_type_shape"], *event["output_type_shape"]]
    ]
    if max((int(np.prod(shape)) for shape in shapes), default=0) < SMALL:
        return "operators on small tensors"
    if event["op_name"] in ("Conv", "FusedConv") and len(shapes) > 1:
        kernel = shapes[1]
        return "Conv, depthwise" if kernel[1] == 1 else "Conv"
    if event["op_name"].startswith("Reorder"):
        return "image layout"
    return str(event["op_name"])


def main() -> None:
    """Measure, print, save."""
    parser = command_line(__doc__, "benchmarks.cost.step_profile --batch 16", threads=2)
    parser.add_argument("--network", choices=NETWORKS, default="WRN-40-2")
    parser.add_argument("--batch", type=int, default=64, help="default 64")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        folder = Path(text)
        write_frozen(options.network, options.batch, folder / "frozen.onnx")
        found["frozen"] = profile(folder / "frozen.onnx", None, options.threads, folder / "p")
        for statistics in STATISTICS:
            model = adaptive_model(options.network, statistics)
            write_steps(model, options.batch, folder, ("meta", "full"))
            for gradient in ("meta", "full"):
                path, inputs = folder / f"{gradient}.onnx", folder / "inputs.npz"
                found[f"{statistics} {gradient}"] = profile(
                    path, inputs, options.threads, folder / "p"
                )
    for name, rows in found.items():
        table = [(what, f"{ms:.1f}") for what, ms in rows.items() if ms >= 0.3]
        print_table(f"{name}: {sum(rows.values()):.0f} ms", ("operator", "ms"), table)
    about = setting(threads=options.threads, network=options.network, batch=options.batch)
    print(setting_text(about, f"{options.network}, batch {options.batch}"))
    save_json({"benchmark": "step_profile", "setting": about, "results": found},
              options.out / "step_profile.json", options.json)  # fmt: skip


if __name__ == "__main__":
    main()
