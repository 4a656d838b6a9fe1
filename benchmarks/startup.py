"""From starting Python to the first prediction: EdgeMem beside a bare onnxruntime session."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from report import save_json, setting, setting_text

from edgemem.cli.show import print_table
from edgemem.demo import BUNDLE

TARGET = 1.3
EDGEMEM = """
import sys, numpy, edgemem
runtime = edgemem.open(sys.argv[1], threads=2)
runtime.predict(numpy.zeros((16, 1, 8, 8), numpy.float32))
"""
BARE = """
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


def seconds(code: str) -> float:
    """Wall time of one fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(BUNDLE)], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure in turn, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/startup.py --quick --json s.json"
    )
    parser.add_argument("--quick", action="store_true", help="3 repetitions instead of 25")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args()
    repeats = 3 if options.quick else 25
    pairs = [(seconds(BARE), seconds(EDGEMEM)) for _ in range(repeats + 1)][1:]
    bare, ours = (1000 * float(np.median(values)) for values in zip(*pairs, strict=True))
    ratio = float(np.median([b / a for a, b in pairs]))
    rows = [
        ("bare onnxruntime", f"{bare:.0f}", "1.00"),
        ("edgemem", f"{ours:.0f}", f"{ratio:.2f}"),
        ("target", "", f"{TARGET:.2f}"),
    ]
    print_table("to the first prediction", ("what", "ms", "ratio"), rows)
    about = setting(threads=2, repeats=repeats)
    print(setting_text(about, f"2 threads, median of {repeats} pairs of processes"))
    figures = {"bare_ms": bare, "edgemem_ms": ours, "ratio": ratio, "target": TARGET}
    found = {"benchmark": "startup", "setting": about, "results": figures}
    save_json(found, options.out / "startup.json", options.json)
    draw(options.out / "startup.png", pairs)
    print(f"Picture: {options.out / 'startup.png'}")


def draw(path: Path, pairs: list[tuple[float, float]]) -> None:
    """Every pair of runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(("bare onnxruntime", "edgemem")):
        axes.plot([1000 * pair[number] for pair in pairs], "o-", label=name)
    axes.set(xlabel="run", ylabel="ms to the first prediction", title="Startup")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
