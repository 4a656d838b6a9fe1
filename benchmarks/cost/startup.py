"""From starting Python to import, first prediction and first step: EdgeMem beside onnxruntime.

Every time is that of a fresh process. They take turns, and ratios are taken round by round. Byte
code is kept, as it is wherever a package was installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table
from edgemem.demo import BUNDLE

FRAMES = "numpy.zeros((16, 1, 8, 8), numpy.float32)"
SESSION = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(sys.argv[1] + "/predict.onnx", options)
feeds = {
    value.name: numpy.zeros([n if isinstance(n, int) else 16 for n in value.shape], numpy.float32)
    for value in session.get_inputs()
}
session.run(None, feeds)
"""
STEP = f"""
import sys, numpy, edgemem
options = edgemem.Options(cache=sys.argv[2] or None)
runtime = edgemem.open(sys.argv[1], threads=2, options=options)
runtime.step({FRAMES})
"""
CODE = {  # name -> code, arguments
    "import numpy, onnxruntime": "import numpy, onnxruntime",
    "import edgemem": "import edgemem",
    "first prediction, onnxruntime": SESSION,
    "first prediction, edgemem": (
        f"import sys, numpy, edgemem\nedgemem.open(sys.argv[1], threads=2).predict({FRAMES})"
    ),
    "first step, edgemem": STEP,
    "first step, optimised graphs kept": STEP,
}
RATIOS = {  # name -> beside, target
    "import edgemem": ("import numpy, onnxruntime", 1.1),
    "first prediction, edgemem": ("first prediction, onnxruntime", 1.1),
    "first step, optimised graphs kept": ("first step, edgemem", None),
}


def seconds(name: str, cache: str) -> float:
    """Wall time of one fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    words = [str(BUNDLE), cache if "kept" in name else ""]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE[name], *words], check=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Measure in turn, print, save."""
    parser = command_line(
        __doc__,
        "benchmarks.cost.startup --quick --json s.json",
        quick="3 repetitions instead of 25",
    )
    options = parser.parse_args()
    repeats = 3 if options.quick else 25
    with tempfile.TemporaryDirectory(prefix="edgemem-") as cache:
        rounds = [[seconds(name, cache) for name in CODE] for _ in range(repeats + 1)]
    times = dict(zip(CODE, 1000 * np.array(rounds[1:]).T, strict=True))  # the first fills caches
    ratios = {
        name: float(np.median(times[name] / times[beside])) for name, (beside, _) in RATIOS.items()
    }
    rows = [
        (name, f"{np.median(values):.0f}", f"{ratios[name]:.2f}" if name in ratios else "1.00",
         f"{RATIOS[name][1]}" if name in RATIOS and RATIOS[name][1] else "")
        for name, values in times.items()
    ]  # fmt: skip
    print_table("start of a process", ("until", "ms", "ratio", "target"), rows)
    about = setting(threads=2, repeats=repeats)
    print(setting_text(about, f"2 threads, median of {repeats} rounds"))
    figures = {"ms": {name: float(np.median(values)) for name, values in times.items()}}
    found = {"benchmark": "startup", "setting": about, "results": figures | {"ratios": ratios}}
    save_json(found, options.out / "startup.json", options.json)
    draw(options.out / "startup.png", {name: list(values) for name, values in times.items()})
    print(f"Picture: {options.out / 'startup.png'}")


def draw(path: Path, times: dict[str, list[float]]) -> None:
    """Every round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in times.items():
        axes.plot(values, "o-", label=name)
    axes.set(xlabel="round", ylabel="ms", title="Start of a process")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
