"""When should the frozen model have a share of the answer? Errors by the ratio of entropies at
which both models answer alike.

Sixteen contexts one after another (corruptions of CIFAR-10 at severity 5, and clean frames), with
labels in random order, in PeTTA's correlated order, and of one class in each context.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from adaptation.protocols import CORRUPTIONS
from adaptation.streams import CLEAN, by_slots
from adaptation.worker import pool_path
from cifar import data_folder
from numpy.typing import NDArray
from report import save_json, setting, setting_text, whole

import edgemem
from edgemem.cli.show import percent, print_table, progress
from edgemem.runtime import opinion

SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"
CONTEXTS = (*CORRUPTIONS, CLEAN)
ORDERS = ("random", "correlated", "one class")
THRESHOLDS = (1.2, 1.5, 1.8, 2.1, 2.4, float("inf"))
BATCH, IMAGES = 64, 1000
Numbers = NDArray[np.int64]


def images(order: str, labels: Numbers, frames: int, rng: np.random.Generator) -> Numbers:
    """Images of one visit."""
    if order == "one class":
        of_class = np.flatnonzero(labels == rng.integers(labels.max() + 1))
        return np.resize(rng.permutation(of_class), frames)
    chosen = rng.permutation(len(labels))[:frames]
    return chosen[by_slots(labels[chosen], rng)] if order == "correlated" else chosen


def error(folder: Path, order: str, frames: int, seed: int, adapt: bool) -> float:
    """Mean over contexts; adapt=False: of the frozen model."""
    labels, rng = np.load(folder / "labels.npy"), np.random.default_rng(seed)
    wrong = []
    with edgemem.open(folder / "bundles" / "remembered.edgemem") as runtime:
        for name in CONTEXTS:
            chosen = images(order, labels, frames, rng)
            x = np.load(pool_path(folder, name), mmap_mode="r")
            for start in range(0, frames, BATCH):
                part = chosen[start : start + BATCH]
                found = runtime.step(x[part]) if adapt else runtime.predict(x[part], frozen=True)
                wrong.append((found.labels != labels[part]).mean())
    return float(np.mean(wrong))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Order -> what answers -> error."""
    found: dict[str, dict[str, float]] = {}
    shipped = opinion.EQUAL
    with progress("second opinion") as bar:
        task = bar.add_task("runs", total=len(ORDERS) * (len(THRESHOLDS) + 1), note="")
        for order in ORDERS:
            row = found[order] = {}
            row["frozen"] = error(folder, order, options.frames, options.seed, False)
            bar.update(task, advance=1, note=order)
            for threshold in THRESHOLDS:
                opinion.EQUAL = threshold  # type: ignore[misc]
                name = "never" if np.isinf(threshold) else f"{threshold:g}"
                row[name] = error(folder, order, options.frames, options.seed, True)
                bar.update(task, advance=1, note=f"{order}, {name}: {percent(row[name])}")
    opinion.EQUAL = shipped  # type: ignore[misc]
    return found


def prepare(data: Path, folder: Path) -> None:
    """Frames and the bundle."""
    from adaptation.setups import write_bundles, write_pool
    from adaptation.tasks import task_of

    resnet20 = task_of("ResNet-20", data)

    with progress("contexts") as bar:
        task = bar.add_task("frames", total=len(CONTEXTS), note="")
        write_pool(resnet20, CONTEXTS, IMAGES, folder,
                   lambda n: bar.update(task, advance=1, note=n))  # fmt: skip
    write_bundles(resnet20, ["remembered"], folder, quick=False)


def main() -> None:
    """Measure, print, save."""
    example = "example: python benchmarks/second_opinion.py --seed 3"
    parser = argparse.ArgumentParser(description=__doc__, epilog=example)
    parser.add_argument("--frames", type=whole, default=960, help="a context; default 960")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options, data = parser.parse_args(), data_folder()
    if data is None:
        print(SKIPPED)
        return
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        prepare(data, Path(text))
        found = measure(Path(text), options)
    rows: list[Any] = [(order, *map(percent, row.values())) for order, row in found.items()]
    print_table("error, by times the frozen model's entropy", ("labels", *found["random"]), rows)
    about = setting(frames=options.frames, seed=options.seed)
    print(setting_text(about, f"{options.frames} frames a context, batch {BATCH}"))
    save_json({"benchmark": "second_opinion", "setting": about, "results": found},
              options.out / "second_opinion.json", options.json)  # fmt: skip


if __name__ == "__main__":
    main()
