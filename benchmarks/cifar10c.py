"""CIFAR-10-C and real JPEG files: a ResNet-20 by others, warmed up, exported, adapted without torch.

The continual protocol: 15 corruptions at severity 5 one after another, never reset. Each method
runs in a process of its own that does not load torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from cifar import (
    MEAN,
    STD,
    data_folder,
    frost_folder,
    load_cifar10,
    load_test_jpeg,
    resnet_checkpoint,
)
from corruptions import CORRUPTIONS, corrupt

from edgemem.cli.show import percent, print_table, progress
from edgemem.errors import EdgeMemError, MissingExtraError
from edgemem.files import sha256_file

if TYPE_CHECKING:
    from rich.progress import TaskID
    from torch import nn

    from edgemem.models import AdaptiveModel, Recipe

PARTS = ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3")
BATCH = 64
SEVERITY = 5
STREAM, NATURAL = "cifar10c", "jpeg"
PACKAGES = ("edgemem", "numpy", "onnxruntime", "torch", "onnx")
WARM_UP_CODE = ("attach", "augment", "meta_network", "statistics", "warm_up")
WORKER = Path(__file__).with_name("cifar10c_worker.py")
EXAMPLE = "example: python benchmarks/cifar10c.py --quick --json cifar10c.json"
SKIPPED = (
    "skipped: no benchmark data; set EDGEMEM_DATA to the folder that holds cifar10/ and models/"
)


@dataclass(frozen=True)
class Variant:
    """One bundle to export."""

    warm: bool
    statistics: Literal["batch", "mix"]
    norm_affine: bool
    gradient: Literal["meta", "full"]


@dataclass(frozen=True)
class Row:
    """One method: a bundle, how it runs (frozen, predict, adapt), and its curve, if it has one."""

    name: str
    bundle: str
    mode: str
    curve: str | None = None


VARIANTS = {
    "plain": Variant(warm=False, statistics="batch", norm_affine=False, gradient="meta"),
    "cold": Variant(warm=False, statistics="mix", norm_affine=True, gradient="full"),
    "meta": Variant(warm=True, statistics="mix", norm_affine=False, gradient="meta"),
    "full": Variant(warm=True, statistics="mix", norm_affine=False, gradient="full"),
}
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
    for name, quick, full in (
        ("frames", 200, 2000),
        ("epochs", 1, 3),
        ("source_frames", 3200, 25_600),
    ):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def frozen_model(data: Path) -> nn.Module:
    """ResNet-20 with the weights by others."""
    from edgemem.models import load_into
    from edgemem.models.networks import resnet20

    model = resnet20()
    load_into(model, resnet_checkpoint(data, 20))
    return model.eval()


def attached(data: Path, variant: Variant) -> AdaptiveModel:
    """The frozen model with fresh meta networks."""
    import torch

    from edgemem.models import Normalization, attach

    return attach(
        frozen_model(data),
        PARTS,
        torch.zeros(2, 3, 32, 32),
        statistics=variant.statistics,
        norm_affine=variant.norm_affine,
        normalization=Normalization(MEAN, STD),
    )


def cache_path(data: Path, recipe: Recipe, frames: int) -> Path:
    """Where a warmed-up checkpoint of these settings lies, in the user's cache."""
    import edgemem.models

    code = Path(edgemem.models.__file__).parent
    settings = {
        "recipe": asdict(recipe),
        "frames": frames,
        "parts": PARTS,
        "checkpoint": sha256_file(resnet_checkpoint(data, 20)),
        "code": [sha256_file(code / f"{name}.py") for name in WARM_UP_CODE],
    }
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "edgemem" / "cifar10c" / f"resnet20-{digest}.safetensors"


def warmed_checkpoint(data: Path, options: argparse.Namespace) -> Path:
    """The checkpoint after warm-up, from the cache if it is there; continues after an abort."""
    from edgemem.models import Progress, Recipe, save_adaptive, warm_up

    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    path = cache_path(data, recipe, options.source_frames)
    if path.exists():
        print(f"warm-up: taken from the cache, {path.name}", file=sys.stderr)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    images, labels = load_cifar10(data, "train")
    frames = images[: options.source_frames].transpose(0, 3, 1, 2)
    model, resume = attached(data, VARIANTS["full"]), path.with_suffix(".progress.safetensors")
    with progress("steps") as bar:
        task = bar.add_task("warm-up", total=None, note="")

        def note(p: Progress) -> None:
            text = f"loss {p.loss:.3f}, accuracy {percent(p.accuracy)}"
            bar.update(task, completed=p.step, total=p.steps, note=text)

        warm_up(model, frames, labels[: len(frames)], recipe, resume=resume, report=note)
    save_adaptive(model, path, {"checkpoint": resnet_checkpoint(data, 20).name})
    resume.unlink(missing_ok=True)
    return path


def export_bundles(data: Path, checkpoint: Path, folder: Path) -> None:
    """Every variant as a bundle in `folder`."""
    from edgemem.export import Choices, export_bundle
    from edgemem.models import load_adaptive

    with progress("bundles") as bar:
        task = bar.add_task("export", total=len(VARIANTS), note="")
        for name, variant in VARIANTS.items():
            warm = variant.warm
            model = load_adaptive(checkpoint, frozen_model(data))[0] if warm else None
            choices = Choices(batch=BATCH, gradient=variant.gradient)
            export_bundle(model or attached(data, variant), folder / f"{name}.edgemem", choices)
            bar.update(task, advance=1)


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
    command = [sys.executable, WORKER, bundle, row.mode, threads, stem, *streams]
    result: dict[str, Any] = {}
    with subprocess.Popen(map(str, command), stdout=subprocess.PIPE, text=True) as process:
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


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to know to judge or repeat the figures."""
    names = ("frames", "epochs", "source_frames", "seed", "threads")
    return {
        "date": date.today().isoformat(),
        **{name: getattr(options, name) for name in names},
        "batch": BATCH,
        "severity": SEVERITY,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


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
    versions = ", ".join(f"{name} {s[name]}" for name in ("python", *PACKAGES))
    print(
        f"{s['date']}; {s['frames']} frames per corruption, batch {BATCH}, seed {s['seed']}; "
        f"warm-up {s['epochs']} x {s['source_frames']} frames;\n"
        f"{s['threads']} threads, {s['machine']}, {s['cores']} cores; {versions}"
    )


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

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = warmed_checkpoint(data, options)
    with tempfile.TemporaryDirectory(prefix="edgemem-") as name:
        folder = Path(name)
        export_bundles(data, checkpoint, folder)
        streams = write_streams(data, options, folder)
        rows = run_rows(folder, streams, options)
        found = {"benchmark": "cifar10c", "setting": setting(options), "rows": rows}
        for path in filter(None, (options.out / "cifar10c.json", options.json)):
            path.write_text(json.dumps(found, indent=1) + "\n")
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
        sys.exit(str(error))


if __name__ == "__main__":
    main()
