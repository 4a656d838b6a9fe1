"""Architectures that people put on devices, each aligned, exported and run: what comes out right.

Random weights, so nothing is said of what alignment gains. One architecture a process, one after
another; rows that were made are not made again while code and packages stay as they are.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.shared.report import command_line, save_json, setting, whole
from benchmarks.zoo.architectures import ARCHITECTURES, Architecture, label_of
from benchmarks.zoo.kept import keep, kept, made_with
from benchmarks.zoo.page import page
from benchmarks.zoo.verdict import verdict

SECONDS = 600  # of the processor, for one architecture
WALL = 6  # times as many on the clock: other work may slow a process down
QUICK = "only align, and trace the step: much faster, and no page"
DEVICE = Path(".venv-demo/bin/edgemem")


def made(label: str, device: Path | str, seconds: int) -> dict[str, Any]:
    """One row, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        path = Path(text) / "row.json"
        words = ["-W", "ignore", "-m", "benchmarks.zoo.worker", label, device, path, seconds]
        try:
            done = subprocess.run(
                [sys.executable, *map(str, words)],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=WALL * seconds,
            )
        except subprocess.TimeoutExpired:
            return {"stage": "the whole", "beyond": f"{WALL * seconds} seconds"}
        if path.exists():
            row: dict[str, Any] = json.loads(path.read_text())
            return row
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"stage": "process", "raised": f"it ended with {done.returncode}: {last}"}


def rows_of(chosen: list[Architecture], folder: Path, device: Path | str, options: Any) -> None:
    """Make what is missing, and say what came out."""
    for number, architecture in enumerate(chosen, start=1):
        label = label_of(architecture)
        row = kept(folder, label)
        if row is None or (row["made_with"] != made_with() and not options.old):
            row = made(label, device, options.seconds) | {"date": date.today().isoformat()}
            keep(folder, label, row)
        found = verdict(row)
        took = f"{row['seconds']:.0f} s" if "seconds" in row else ""
        print(f"{number}/{len(chosen)} {label}: {found.word} {found.reason} {took}", flush=True)


def main() -> None:
    """Make the rows, print verdicts, write the page."""
    parser = command_line(__doc__, "benchmarks.zoo 'timm/mobile*'", quick=QUICK)
    parser.add_argument("names", nargs="*", default=["*"], help="patterns of library/architecture")
    parser.add_argument("--device", type=Path, default=DEVICE, help=f"default {DEVICE}")
    parser.add_argument("--seconds", type=whole, default=SECONDS, help=f"default {SECONDS}")
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the table there")
    parser.add_argument("--old", action="store_true", help="keep rows that older code made")
    options = parser.parse_args()
    if options.quick and options.page:
        parser.error("--quick makes no page")
    if not options.quick and not options.device.exists():
        parser.error(f"{options.device} is missing; make demo installs it")
    folder = options.out / ("zoo-quick" if options.quick else "zoo")
    chosen = [
        found
        for found in ARCHITECTURES
        if any(fnmatch.fnmatch(label_of(found), pattern) for pattern in options.names)
    ]
    rows_of(chosen, folder, "" if options.quick else options.device.absolute(), options)
    rows = {}
    for architecture in ARCHITECTURES:
        if (row := kept(folder, label_of(architecture))) is not None:
            rows[label_of(architecture)] = row | {"frame": architecture.shape}
    verdicts = {label: verdict(row) for label, row in rows.items()}
    about = setting(seconds=options.seconds)
    save_json({"benchmark": "zoo", "setting": about, "results": rows}, options.json)
    if options.page is not None:
        options.page.write_text(page(rows, verdicts, about, len(ARCHITECTURES)))


if __name__ == "__main__":
    main()
