"""The same adaptation step in several engines, side by side: time and memory of a process.

Each engine runs in an environment of its own, which this command makes beside the project
(`.venv-engines/`, 5 GB in all); one that cannot be installed or cannot run the step is named and
skipped. Engines take turns, one step each, so that ratios hold on a machine whose speed drifts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.engines.model import BATCH, NETWORK, STATISTICS, write_forms
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import Stages, print_table, progress

WORKER = Path(__file__).with_name("worker.py")
ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv-engines"
OURS, REFERENCE = "EdgeMem", "torch eager"
PREFIX = "engines: "
PAUSE = 0.05
TORCH = "torch==2.13.0"
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """packages: of its own environment; () = this one. converts: whether it needs `prepare`."""

    name: str
    packages: tuple[str, ...] = ()
    converts: bool = False


ENGINES = (
    Engine(OURS),
    Engine("EdgeMem, lean"),
    Engine(REFERENCE),
    Engine("torch.compile"),
    Engine(
        "onnxruntime-training",
        (
            "onnxruntime-training-cpu==1.19.2",
            "onnx==1.16.2",
            "numpy==1.26.4",
            "protobuf==4.25.9",
            TORCH,
        ),
        converts=True,
    ),
    Engine("ExecuTorch", (TORCH, "executorch==1.5.1"), converts=True),
    Engine("LiteRT", (TORCH, "litert-torch==0.10.0", "ai-edge-litert==2.3.0"), converts=True),
)


class Skipped(Exception):
    """Why an engine is left out."""


def environment(engine: Engine, log: IO[str]) -> str:
    """The Python that runs an engine; its environment is made when first needed."""
    if not engine.packages:
        return sys.executable
    folder = ENVIRONMENTS / engine.name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists() or done.read_text().split() != list(engine.packages):
        run([sys.executable, "-m", "venv", "--clear", folder], log, "no environment")
        install = [python, "-m", "pip", "install", "--quiet", *engine.packages]
        run(install, log, f"cannot be installed on Python {sys.version_info[1]}")
        done.write_text("\n".join(engine.packages))
    return str(python)


def run(command: list[Any], log: IO[str], failure: str) -> None:
    """Run a command; a failure skips the engine."""
    finished = subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False)
    if finished.returncode:
        raise Skipped(f"{failure} (exit {finished.returncode}; see {log.name})")


class Served:
    """A worker that runs a step whenever asked."""

    def __init__(self, engine: Engine, folder: Path, threads: int, log: IO[str]) -> None:
        python = environment(engine, log)
        words = [python, str(WORKER)]
        if engine.converts:
            run([*words, "prepare", engine.name, folder], log, "cannot convert the step")
        self.times: list[float] = []
        self.process = subprocess.Popen(
            [*words, "serve", engine.name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        self._log = log.name
        self._line()  # ready
        with np.load(folder / f"{engine.name}.npz") as outputs:
            self.outputs = dict(outputs)

    def time(self) -> None:
        """One more step."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then it says why below
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.times.append(float(self._line()))

    def peak_mb(self) -> float:
        """The process's peak memory; it ends."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(PREFIX):
                return line.removeprefix(PREFIX).strip()
        raise Skipped(f"ended with code {self.process.wait()} (see {self._log})")


def measure(options: argparse.Namespace, stages: Stages) -> dict[str, Any]:
    """Figures by engine; for one that is skipped, why."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text, ExitStack() as logs:
        folder = Path(text)
        stages("exporting the step", 0, 1)
        write_forms(folder)
        stages("exporting the step", 1, 1)
        served: dict[str, Served] = {}
        for number, engine in enumerate(ENGINES):
            stages("preparing engines", number, len(ENGINES))
            log = options.out / f"engines-{engine.name.replace(' ', '-')}.log"
            opened = logs.enter_context(log.open("w"))
            with skipping(engine.name, found, served):
                served[engine.name] = Served(engine, folder, options.threads, opened)
        stages("preparing engines", len(ENGINES), len(ENGINES))
        for turn in range(options.repeats):
            stages("timing in turns", turn, options.repeats)
            for name, engine in list(served.items()):
                time.sleep(PAUSE)
                with skipping(name, found, served):
                    engine.time()
        stages("timing in turns", options.repeats, options.repeats)
        with np.load(folder / "inputs.npz") as inputs:
            start = dict(inputs)
        for name, engine in list(served.items()):
            with skipping(name, found, served):
                found[name] = {
                    "ms": float(np.median(engine.times)),
                    "peak_mb": engine.peak_mb(),
                    "off": off(engine.outputs, served[REFERENCE].outputs, start),
                }
    return {engine.name: found[engine.name] for engine in ENGINES}


@contextmanager
def skipping(name: str, found: dict[str, Any], served: dict[str, Served]) -> Iterator[None]:
    """An engine that fails is left out from then on; ours and the reference must not fail."""
    try:
        yield
    except Skipped as why:
        if name in (OURS, REFERENCE):
            raise
        found[name] = {"skipped": str(why)}
        served.pop(name, None)


def off(outputs: Arrays, reference: Arrays, start: Arrays) -> float:
    """Distance of the first update to torch eager's, as a part of that update's length."""
    away = moved = 0.0
    for name, value in reference.items():
        if name.startswith("next.block."):
            away += float(np.square(outputs[name] - value).sum())
            moved += float(np.square(value - start[name.removeprefix("next.")]).sum())
    return (away / moved) ** 0.5


def show(found: dict[str, Any]) -> None:
    """One table."""
    ours = found[OURS]["ms"]
    rows = []
    for name, row in found.items():
        if "skipped" in row:
            print(f"{name}: skipped, {row['skipped']}")
            continue
        ms, mb, away = row["ms"], row["peak_mb"], row["off"]
        rows.append((name, f"{ms:.1f}", f"{ms / ours:.2f}", f"{mb:.0f}", f"{away:.1e}"))
    title = f"One full adaptation step, {NETWORK}, batch {BATCH}, {STATISTICS} statistics"
    print_table(title, ("engine", "ms", "x ours", "process MB", "update off by"), rows)


def draw(path: Path, found: dict[str, Any]) -> None:
    """Time beside memory; the lower left corner is best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, row in found.items():
        if "ms" in row:
            colour = "#d1495b" if name.startswith("EdgeMem") else "#3a7ebf"
            axes.scatter(row["ms"], row["peak_mb"], color=colour)
            place = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 9}
            axes.annotate(name, (row["ms"], row["peak_mb"]), **place)
    axes.set(xscale="log", yscale="log", xlabel="ms a step", ylabel="peak MB of the process")
    axes.set_title(f"One full adaptation step, {NETWORK}, batch {BATCH}")
    axes.margins(0.2)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, save."""
    parser = command_line(__doc__, "benchmarks.engines.compare --json engines.json", threads=2)
    parser.add_argument("--repeats", type=int, default=15, help="timed steps of each; default 15")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with progress("stages") as bar:
            found = measure(options, Stages(bar))
    except Skipped as why:
        sys.exit(f"failed: {why}")
    show(found)
    about = setting(threads=options.threads, repeats=options.repeats)
    print(setting_text(about, f"{options.threads} threads, median of {options.repeats}"))
    about["packages"] = {engine.name: engine.packages for engine in ENGINES}
    result = {"benchmark": "engines", "setting": about, "results": found}
    save_json(result, options.out / "engines.json", options.json)
    draw(options.out / "engines.png", found)
    print(f"Picture: {options.out / 'engines.png'}")


if __name__ == "__main__":
    main()
