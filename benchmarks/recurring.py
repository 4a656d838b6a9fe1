"""Contexts that come back: what remembering a block for each is worth, on CIFAR-10-C.

Ten corruptions at severity 5 return visit after visit, 256 frames each, batch 64; every visit draws
its own frames. Protocols: "balanced" (all classes alike), "skewed" (each context has its own class
prior, Dirichlet 0.3), "correlated" (all classes alike in a visit, but one after another: PeTTA's
order, Dirichlet 0.1 over ten slots), "contradicting" (even contexts hold classes 0 to 4 only, odd
ones 5 to 9). One bundle runs in seven ways, with the contexts that the runtime finds, never with
true names. "shipped levels": the bundle holds what another device learnt in two visits to each
context, on other frames and with other class priors.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from cifar import data_folder, frost_folder, load_cifar10
from corruptions import corrupt
from recurring_streams import BATCH, CONTEXTS, PROTOCOLS, VISIT, visits
from recurring_ways import FLAT, HIERARCHY, WAYS, load_images, run_way
from report import save_json, setting, setting_text, whole

import edgemem
from edgemem.bank.build import build_bank
from edgemem.bank.learnt import learnt_opener
from edgemem.bank.ship import ship
from edgemem.bank.transfer import export_blocks
from edgemem.bundle import open_bundle
from edgemem.cli.show import percent, print_table, progress
from edgemem.errors import EdgeMemError
from edgemem.state import State

SEVERITY = 5
LEVELS, BRANCH, OTHER_SEED = 2, 4, 1000  # of the device whose blocks are shipped
SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"


def make_bundles(data: Path, options: argparse.Namespace, folder: Path) -> None:
    """The bundle, and the same without a shared root."""
    import shutil

    from cifar10c_model import Recipe, Variant, frozen_model, warmed_checkpoint

    from edgemem.export import Choices, export_bundle
    from edgemem.models import load_adaptive

    variant = Variant(warm=True, statistics="remembered", norm_affine=False, gradient="meta")
    recipe = Recipe(epochs=1 if options.quick else 3)
    frames = 3200 if options.quick else 25_600
    checkpoint = warmed_checkpoint(data, recipe, frames, variant)
    model, _ = load_adaptive(checkpoint, frozen_model(data))
    export_bundle(model, folder / "bundle.edgemem", Choices(batch=BATCH))
    shutil.copytree(folder / "bundle.edgemem", folder / "flat.edgemem")
    manifest = folder / "flat.edgemem" / "manifest.json"
    document = json.loads(manifest.read_text())
    for array in document["block"]:
        array["root_share"] = 0.0
    manifest.write_text(json.dumps(document))


def ship_what_another_learnt(folder: Path, protocol: str) -> None:
    """Run a device for two visits, export its blocks, build levels of them, ship these."""
    bundle, images = open_bundle(folder / "bundle.edgemem"), load_images(folder)
    other = folder / protocol
    other.mkdir()
    with edgemem.open(bundle.path, other / "state.db", threads=1) as runtime:
        for _, _, _, frames, _ in visits(protocol, 2, *images, OTHER_SEED):
            runtime.step(frames)
    with closing(State(other / "state.db", None)) as state:
        export_blocks(state, other / "blocks.safetensors")
    learnt = learnt_opener(bundle, [other / "blocks.safetensors"])
    build_bank(learnt, other / "bank", levels=LEVELS, branch=BRANCH)
    ship(other / "bank", bundle.path, folder / f"shipped-{protocol}.edgemem")


def save_images(data: Path, folder: Path) -> None:
    """2,000 test images under every corruption, channels first, and their labels."""
    images, labels = load_cifar10(data, "test")
    frost = frost_folder(data)
    np.save(folder / "labels.npy", labels[:2000])
    with progress("corruptions") as bar:
        task = bar.add_task("corrupt", total=len(CONTEXTS), note="")
        for name in CONTEXTS:
            frames = corrupt(images[:2000], name, SEVERITY, seed=0, frost_folder=frost)
            np.save(folder / f"{name}.npy", frames.transpose(0, 3, 1, 2))
            bar.update(task, advance=1, note=name)


def measure(data: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every way under every protocol: means over the seeds."""
    make_bundles(data, options, folder)
    save_images(data, folder)
    tasks = list(product(PROTOCOLS, WAYS, range(options.seeds)))
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with progress("runs") as bar, ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        task = bar.add_task("other device", total=len(PROTOCOLS), note="")
        others = [pool.submit(ship_what_another_learnt, folder, p) for p in PROTOCOLS]
        for other in others:
            other.result()
            bar.update(task, advance=1)
        task = bar.add_task("ways", total=len(tasks), note="")
        waiting = [
            pool.submit(run_way, folder, protocol, way, seed, options.visits, options.threads)
            for protocol, way, seed in tasks
        ]
        for (protocol, way, seed), future in zip(tasks, waiting, strict=True):
            found = future.result()
            runs.setdefault((protocol, way.name), []).append(found)
            note = f"{protocol}, {way.name}, seed {seed}: {percent(found['error'])}"
            bar.update(task, advance=1, note=note)
    return {p: {way.name: _mean(runs[p, way.name]) for way in WAYS} for p in PROTOCOLS}


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of all figures, and the spread of the error: its standard deviation over seeds."""
    mean = {
        name: None if runs[0][name] is None else np.mean([r[name] for r in runs], 0).tolist()
        for name in runs[0]
    }
    return {**mean, "spread": float(np.std([run["error"] for run in runs]))}


def show(protocol: str, rows: dict[str, dict[str, Any]]) -> None:
    """One table."""
    last = len(next(iter(rows.values()))["by_visit"])
    table = [
        (
            name,
            f"{100 * row['error']:.1f}±{100 * row['spread']:.1f}",
            *(_visit(row["by_visit"], visit) for visit in (1, 2, last)),
            _short(row["first_batches"]),
            _short(row["recognised"]),
            f"{row['kilobytes_per_1000_frames']:.0f}",
        )
        for name, row in rows.items()
    ]
    columns = ("way", "error", "visit 1", "2", str(last), "first", "known", "kB")
    print_table(protocol, columns, table)


def switches(results: dict[str, dict[str, Any]]) -> str:
    """What a change of context costs."""
    found = [results[protocol][way] for protocol in results for way in (FLAT, HIERARCHY)]
    step = np.median([row["step_ms"] for row in found])
    bare, probed = (
        np.median([rows[way]["switch_ms"] for rows in results.values()])
        for way in (FLAT, HIERARCHY)
    )
    return (
        f"A step takes {step:.0f} ms; when the context changes {bare:.0f} ms more, with the probe "
        f"of a consolidation {probed:.0f} ms."
    )


def _visit(errors: list[float], number: int) -> str:
    return _short(errors[number - 1] if number <= len(errors) else None)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def draw(path: Path, results: dict[str, Any]) -> None:
    """Error by visit, one panel a protocol."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (protocol, rows) in zip(
        figure.subplots(1, len(results), sharey=True), results.items(), strict=True
    ):
        for name, row in rows.items():
            visit = np.arange(1, len(row["by_visit"]) + 1)
            axes.plot(visit, 100 * np.array(row["by_visit"]), "o-", markersize=3, label=name)
        axes.set(title=protocol, xlabel="visit", ylim=(0, None))
    figure.axes[0].set_ylabel("error (%)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def read_options() -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    example = "example: python benchmarks/recurring.py --visits 5 --seeds 1 --json recurring.json"
    parser = argparse.ArgumentParser(description=__doc__, epilog=example)
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="2 visits, 1 seed, a short warm-up")
    add("--visits", type=whole, help="default 20")
    add("--seeds", type=whole, help="default 3")
    add("--threads", type=whole, default=1, help="of one run; default 1")
    add("--jobs", type=whole, default=2, help="runs at a time; default 2")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add("--out", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args()
    options.visits = options.visits or (2 if options.quick else 20)
    options.seeds = options.seeds or (1 if options.quick else 3)
    return options


def main() -> None:
    """Measure, print, save."""
    options, data = read_options(), data_folder()
    if data is None:
        print(SKIPPED)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="edgemem-") as name:
            results = measure(data, options, Path(name))
    except (EdgeMemError, OSError) as error:
        sys.exit(f"failed: {error}")
    for protocol, rows in results.items():
        show(protocol, rows)
    about = setting(
        visits=options.visits,
        seeds=options.seeds,
        threads=options.threads,
        jobs=options.jobs,
        batch=BATCH,
    )
    choices = f"{options.visits} visits of {VISIT} frames, {options.seeds} seeds, batch {BATCH}"
    print("Errors and known in per cent, with the standard deviation over seeds.")
    print("first: error of the first 2 batches of a return. known: batches of a return that got")
    print("a name their context had before. kB: written to disk per 1,000 frames.")
    print(switches(results))
    print(setting_text(about, choices))
    found = {"benchmark": "recurring", "setting": about, "results": results}
    save_json(found, options.out / "recurring.json", options.json)
    draw(options.out / "recurring.png", results)
    print(f"Picture: {options.out / 'recurring.png'}")


if __name__ == "__main__":
    main()
