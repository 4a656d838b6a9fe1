"""Fetching from banks of several sizes beside bare reads of the same bytes, descent and memory.

Banks of random numbers are made in a temporary folder. Each is measured in a process of its own.
Cold means that the pages of the files were dropped (posix_fadvise) before every read; caches of the
disk itself, or of a host machine, are beyond our reach. A bare read is preadv from known places
into buffers that are there already: below the pinned level, of keys and rows, or of rows alone.
"Rows read" are read and checked by the bank, "rows summed" are added up too; a fetch is a descent
and rows summed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.bank.levels.level_folder import level_path
from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.cli.show import print_table, progress

WORKER = Path(__file__).with_name("fetch_worker.py")
LEVELS, ELEMENTS, KEY_LENGTH = 3, 28_672, 384
BANKS = {0.05: 7, 0.1: 9, 1.0: 20, 8.0: 41}  # GB: children of a node
LEAVES = (4, 16)  # of the bank whose descent is measured: 65,536 leaves
RATIO, DESCENT_US, GROWTH_MB = 1.2, 200.0, 16.0


def bytes_of(branch: int, levels: int, elements: int) -> int:
    """Size of a bank's files, nearly."""
    nodes = sum(branch**level for level in range(1, levels + 1))
    return nodes * (4 * elements + 4 * KEY_LENGTH + 24)


def make_bank(folder: Path, branch: int, levels: int, elements: int, title: str) -> None:
    """Random keys; blocks that repeat some random rows."""
    folder.mkdir()
    random = np.random.default_rng(0)
    some = random.normal(size=(64, elements)).astype(np.float32)
    with progress("rows") as bar:
        for number in range(1, levels + 1):
            shape = LevelShape(number, branch, KEY_LENGTH, elements)
            task = bar.add_task(f"{title}, level {number}", total=shape.rows, note="")

            def rows(shape: LevelShape = shape, task: Any = task) -> Iterator[Any]:
                for row in range(shape.rows):
                    bar.update(task, completed=row + 1)
                    yield some[row % len(some)]

            keys = random.normal(size=(shape.rows, KEY_LENGTH)).astype(np.float32)
            count = np.ones(shape.rows, np.int64)
            write_level(level_path(folder, number), shape, keys, count, rows())


def measured(folder: Path, repeats: int) -> dict[str, Any]:
    """Figures of one bank, from a process of its own."""
    command = [sys.executable, str(WORKER), str(folder), str(repeats)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def run_bank(
    root: Path, title: str, branch: int, levels: int, elements: int, repeats: int
) -> dict[str, Any] | None:
    """Make, measure, remove; None where the disk lacks space."""
    needed, free = bytes_of(branch, levels, elements), shutil.disk_usage(root).free
    if needed * 1.1 > free:
        print(f"skipped {title}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free")
        return None
    folder = root / "bank"
    try:
        make_bank(folder, branch, levels, elements, title)
        return {"bytes": needed, "branch": branch, **measured(folder, repeats)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(results: dict[str, dict[str, Any]], descent: dict[str, float] | None) -> None:
    """Tables beside the targets."""
    for state, title in (("cold", "pages dropped"), ("warm", "pages in the page cache")):
        rows = [("target", "", "", f"{RATIO:.2f}")]
        for name, found in results.items():
            times = found[state]
            for what, figures in times.items():
                bare = times["bare, rows alone" if "rows" in what else "bare"]["p50"]
                # A descent reads the keys alone: neither bare read is its measure.
                ratio = "" if "descent" in what else f"{figures['p50'] / bare:.2f}"
                microseconds = (f"{figures[quantile]:.0f}" for quantile in figures)
                rows.append((f"{name}, {what}", *microseconds, ratio))
        columns = ("bank", "p50 µs", "p99 µs", "x bare read")
        print_table(f"one fetch, {title}", columns, rows)
    least = next(iter(results.values()))["memory"] if results else {}
    rows = []
    for name, found in results.items():
        memory = found["memory"]
        more = own(memory) - own(least)
        figures = (memory["grown_mb"], memory["pinned_mb"], more)
        rows.append((name, *(f"{value:.1f}" for value in figures)))
    rows.append(("target", "", "", f"{GROWTH_MB:.1f}"))
    columns = ("bank", "MB more", "of them level 1", "above the smallest")
    print_table("anonymous memory, by opening and fetching", columns, rows)
    if descent is not None:
        rows = [("65,536 leaves", f"{descent['p50']:.0f}", f"{descent['p99']:.0f}")]
        rows.append(("target", f"{DESCENT_US:.0f}", ""))
        print_table("descent, keys of 384 numbers", ("tree", "p50 µs", "p99 µs"), rows)


def own(memory: dict[str, float]) -> float:
    """Memory apart from the pinned level."""
    return memory["grown_mb"] - memory["pinned_mb"]


def draw(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Median times by size of the bank."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    series = {
        "bare read, cold": ("cold", "bare", "#9a9a9a", "o--"),
        "fetch, cold": ("cold", "fetch", "#d1495b", "o-"),
        "bare read, warm": ("warm", "bare", "#c9c9c9", "s--"),
        "fetch, warm": ("warm", "fetch", "#3a7ebf", "s-"),
        "fetch, rows in our cache": ("warm", "fetch, cached", "#2d7f5e", "^-"),
        "rows read, warm": ("warm", "rows read", "#b07aa1", "v-"),
    }
    axes = figure.subplots()
    sizes = [found["bytes"] / 1e9 for found in results.values()]
    for label, (state, what, colour, style) in series.items():
        times = [found[state][what]["p50"] for found in results.values()]
        axes.plot(sizes, times, style, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="bank (GB)", ylabel="median of a fetch (µs)")
    axes.set_title(f"Fetching {LEVELS} levels, rows of {4 * ELEMENTS // 1024} KiB")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = command_line(
        __doc__,
        "benchmarks.bank.fetch --quick --json bank.json",
        quick="banks of 0.05 and 0.1 GB only",
    )
    parser.add_argument("--repeats", type=int, help="timed fetches; default 1000, quick 200")
    parser.add_argument("--folder", type=Path, help="where to make the banks; default temporary")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (200 if options.quick else 1000)
    return options


def main() -> None:
    """Measure, print, save."""
    options = read_options()
    sizes = (0.05, 0.1) if options.quick else (0.1, 1.0, 8.0)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-", dir=options.folder) as text:
        root = Path(text)
        for size in sizes:
            title, branch = f"{size:g} GB", BANKS[size]
            found = run_bank(root, title, branch, LEVELS, ELEMENTS, options.repeats)
            if found is not None:
                results[title] = found
        levels, branch = LEAVES
        tree = run_bank(root, "65,536 leaves", branch, levels, 0, options.repeats)
    descent = tree["descent"] if tree else None
    show(results, descent)
    about = setting(repeats=options.repeats, levels=LEVELS, elements=ELEMENTS, key=KEY_LENGTH)
    words = f"{LEVELS} levels, {options.repeats} fetches, float32 rows of {4 * ELEMENTS:,} bytes"
    print(setting_text(about, words))
    targets = {"fetch_ratio": RATIO, "descent_us": DESCENT_US, "growth_mb": GROWTH_MB}
    found = {"benchmark": "bank_fetch", "setting": about, "targets": targets}
    found |= {"banks": results, "descent": descent}
    save_json(found, options.out / "bank_fetch.json", options.json)
    if results:
        draw(options.out / "bank_fetch.png", results)
        print(f"Picture: {options.out / 'bank_fetch.png'}")


if __name__ == "__main__":
    main()
