"""What the benchmarks of time and memory share; torch is never loaded here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import textwrap
import threading
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

MEMORY_RUNS = 3


def make_parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that these benchmarks take; `quick` says what --quick leaves out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--threads", type=int, default=2, help="of every engine; default 2")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    return parser


def setting(packages: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """What a reader needs to know to judge or repeat the figures."""
    return {
        "date": date.today().isoformat(),
        **more,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def print_setting(values: dict[str, Any]) -> None:
    """The setting in lines of 80 columns."""
    print(textwrap.fill("; ".join(f"{k} {v}" for k, v in values.items()), 80))


def write_json(path: Path | None, found: dict[str, Any]) -> None:
    """The figures for other programs, if a path was given."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n")


def anonymous_mb() -> float:
    """Memory of this process that no file backs, in MB (10^6 bytes); NaN where unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    sizes = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(sizes[0]) * 1024 / 1e6 if sizes else float("nan")


def print_session_memory(graph: str, feeds: str, threads: str) -> None:
    """MB that opening a graph and running it adds to this process, as JSON on standard output.

    The inputs (frames, block) are loaded first and not counted. The peak is polled.
    """
    from edgemem.runtime.onnxruntime_backend import OnnxRuntimeBackend

    with np.load(feeds) as stored:
        arrays = dict(stored)
    seen, stop = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            seen.append(anonymous_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = anonymous_mb()
    opened = OnnxRuntimeBackend(int(threads)).open(Path(graph))
    loaded = anonymous_mb()
    for _ in range(MEMORY_RUNS):
        opened.run({name: arrays[name] for name in opened.inputs})
    stop.set()
    watcher.join()
    print(json.dumps({"mb_loaded": loaded - before, "mb_peak": max(seen) - before}))


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
