"""CIFAR-10-C and real JPEG files: a ResNet-20 by others, warmed up, exported, adapted without torch.

The continual protocol: 15 corruptions at severity 5 one after another, never reset. Each method
runs in a process of its own that does not load torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cifar import data_folder, frost_folder, load_cifar10, load_test_jpeg
from corruptions import CORRUPTIONS, corrupt
from report import save_json, setting, setting_text

from edgemem.cli.show import percent, print_table, progress
from edgemem.errors import EdgeMemError, MissingExtraError

if TYPE_CHECKING:
    from rich.progress import TaskID


BATCH = 64
SEVERITY = 5
STREAM, NATURAL = "cifar10c", "jpeg"
DEFAULTS = {"frames": (200, 2000), "epochs": (1, 3), "source_frames": (3200, 25_600)}
WORKER = Path(__file__).with_name("cifar10c_worker.py")
EXAMPLE = "example: python benchmarks/cifar10c.py --quick --json cifar10c.json"
SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"


@dataclass(frozen=True)
class Row:
    """One method: a bundle, how it runs (frozen, predict, adapt), and its curve, if it has one."""

    name: str
    bundle: str
    mode: str
    curve: str | None = None


ROWS = (
    Row("frozen", "plain", "frozen", "frozen"),
    # Not warmed up, its block is zero: batch statistics alone (BN-1).
    Row("batch statistics", "plain", "predict", "statistics of the batch"),
    Row("no warm-up, adapted", "cold", "adapt"),
    Row("warm, not adapted", "meta", "predict"),
    Row("warm, adapted (meta)", "meta", "adapt"),
    Row("warm, adapted (full)", "full", "adapt", "adapted (full)"),
)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Parser of a whole number within bounds."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} to {high}")
        return value

    return parse


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--quick", action="store_true", help="200 frames, 1 epoch of 3200 source frames")
    add("--frames", type=whole(1, 10_000), help="per corruption; default 2000")
    add("--epochs", type=whole(1, 1000), help="of warm-up; default 3")
    add("--source-frames", type=whole(BATCH, 50_000), help="for warm-up; default 25600")
    add("--seed", type=whole(0, 2**31), default=0, help="of warm-up and corruptions")
    add("--threads", type=whole(1, 1024), default=2, help="default 2")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add("--out", type=Path, default=Path("results"), metavar="FOLDER", help="default results")
    options = parser.parse_args(arguments)
    for name, (quick, full) in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def write_streams(data: Path, options: argparse.Namespace, folder: Path) -> list[Path]:
    """The corrupted stream and the stream of JPEG files, of the first test images."""
    images, labels = load_cifar10(data, "test")
    n = options.frames
    x = np.empty((len(CORRUPTIONS) * n, 3, 32, 32), np.uint8)
    with progress("corruptions") as bar:
        task = bar.add_task("corrupt", total=len(CORRUPTIONS), note="")
        for i, name in enumerate(CORRUPTIONS):
            frost = frost_folder(data)
            frames = corrupt(images[:n], name, SEVERITY, seed=options.seed, frost_folder=frost)
            x[i * n : (i + 1) * n] = frames.transpose(0, 3, 1, 2)
            bar.update(task, advance=1, note=name)
    y, context = np.tile(labels[:n], len(CORRUPTIONS)), np.repeat(CORRUPTIONS, n)
    np.savez(folder / f"{STREAM}.npz", x=x, y=y, context=context)
    natural = np.ascontiguousarray(load_test_jpeg(data)[:n].transpose(0, 3, 1, 2))
    context = np.repeat([NATURAL], n)
    np.savez(folder / f"{NATURAL}.npz", x=natural, y=labels[:n], context=context)
    return [folder / f"{STREAM}.npz", folder / f"{NATURAL}.npz"]


def run_row(
    row: Row, folder: Path, streams: list[Path], threads: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Figures of one method, measured by a process of its own."""
    bundle, stem = folder / f"{row.bundle}.edgemem", folder / row.name
    words = (sys.executable, WORKER, bundle, row.mode, threads, stem, *streams)
    command = [str(word) for word in words]
    result: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            result = message.get("result", result)
            advance(message.get("frames", 0))
    if process.returncode or not result:
        sys.exit(f"{row.name}: the measuring process ended with code {process.returncode}")
    main, natural = result[STREAM], result[NATURAL]
    return {
        "error": float(np.mean(list(main["per_context"].values()))),
        "per_corruption": main["per_context"],
        "jpeg_error": natural["per_context"][NATURAL],
        "ms_per_batch": main["ms_per_batch"],
        "peak_rss_mb": main["peak_rss_mb"],
        "events": main["events"],
    }


def run_rows(folder: Path, streams: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Every method, one after another."""
    rows = {}
    with progress("frames") as bar:
        for row in ROWS:
            total = (len(CORRUPTIONS) + 1) * options.frames
            task = bar.add_task(row.name, total=total, note="")

            def advance(frames: int, task: TaskID = task) -> None:
                bar.update(task, advance=frames)

            rows[row.name] = run_row(row, folder, streams, options.threads, advance)
            bar.update(task, note=f"error {percent(rows[row.name]['error'])}")
    return rows


def show(found: dict[str, Any]) -> None:
    """The table and the setting line."""
    print_table(
        "CIFAR-10-C at severity 5, ResNet-20 by others; never reset, no torch",
        ("method", "mean error", "JPEG files", "ms per batch", "peak MB"),
        [
            (
                name,
                percent(row["error"]),
                percent(row["jpeg_error"]),
                f"{row['ms_per_batch']:.1f}",
                f"{row['peak_rss_mb']:.0f}",
            )
            for name, row in found["rows"].items()
        ],
    )
    s = found["setting"]
    choices = (
        f"{s['frames']} frames per corruption, batch {BATCH}, seed {s['seed']}; "
        f"warm-up {s['epochs']} x {s['source_frames']} frames; {s['threads']} threads"
    )
    print(setting_text(s, choices))


def draw(folder: Path, path: Path, frames: int) -> str:
    """Rolling error over the stream; a sentence about the picture."""
    from edgemem.plot import plot_errors

    curves = {row.curve: np.load(folder / f"{row.name}-{STREAM}.npy") for row in ROWS if row.curve}
    title = "ResNet-20 on CIFAR-10-C, severity 5, corruptions one after another, never reset"
    contexts = np.repeat(CORRUPTIONS, frames)
    try:
        plot_errors(path, curves, contexts, title=title, window=min(500, frames))
    except MissingExtraError as error:
        return f"No picture: {error}"
    return f"Picture: {path}"


def run(data: Path, options: argparse.Namespace) -> None:
    """The whole benchmark."""
    import torch
    from cifar10c_model import Recipe, export_bundles, warmed_checkpoint

    torch.set_num_threads(options.threads)
    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    checkpoint = warmed_checkpoint(data, recipe, options.source_frames)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as name:
        folder = Path(name)
        export_bundles(data, checkpoint, folder)
        streams = write_streams(data, options, folder)
        rows = run_rows(folder, streams, options)
        choices = {name: getattr(options, name) for name in (*DEFAULTS, "seed", "threads")}
        about = setting(**choices, batch=BATCH, severity=SEVERITY)
        found = {"benchmark": "cifar10c", "setting": about, "rows": rows}
        save_json(found, options.out / "cifar10c.json", options.json)
        show(found)
        print(draw(folder, options.out / "cifar10c.png", options.frames))


def main() -> None:
    """Command line."""
    options = read_options()
    data = data_folder()
    if data is None:
        print(SKIPPED)
        return
    try:
        run(data, options)
    except (EdgeMemError, OSError) as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
