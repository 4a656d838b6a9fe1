"""Contexts that come back: what remembering a block for each is worth, on CIFAR-10-C.

Ten corruptions at severity 5 return visit after visit, 256 frames each, batch 64; every visit draws
its own frames. Protocols: "balanced" (all classes alike), "skewed" (each context has its own class
prior, Dirichlet 0.3), "correlated" (all classes alike in a visit, but one after another: PeTTA's
order, Dirichlet 0.1 over ten slots), "contradicting" (even contexts hold classes 0 to 4 only, odd
ones 5 to 9). One bundle runs in six ways, with the contexts that the runtime finds, never with true
names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cifar import data_folder, frost_folder, load_cifar10
from corruptions import corrupt
from numpy.typing import NDArray
from report import save_json, setting, setting_text

import edgemem
from edgemem.cli.show import percent, print_table, progress
from edgemem.errors import EdgeMemError

if TYPE_CHECKING:
    from rich.progress import TaskID

BATCH, VISIT, SEVERITY = 64, 256, 5
CONTEXTS = (
    "gaussian_noise", "impulse_noise", "defocus_blur", "glass_blur", "snow",
    "fog", "contrast", "pixelate", "brightness", "elastic_transform",
)  # fmt: skip
PROTOCOLS = ("balanced", "skewed", "correlated", "contradicting")
CONCENTRATION, SLOT_CONCENTRATION, SLOTS = 0.3, 0.1, 10
NO_MEMORY = {"least_batch_weight": 1.0, "prior_weight": 0.0}
SKIPPED = "skipped: no data; set EDGEMEM_DATA to a folder with cifar10/, cifar10c/ and models/"


@dataclass(frozen=True)
class Way:
    """How a bundle runs. flat: leaves without a shared root. zero: nothing warmed up."""

    name: str
    adapt: bool = True
    contexts: bool = False
    flat: bool = False
    zero: bool = False
    frozen: bool = False
    hyper_parameters: dict[str, float] = field(default_factory=dict)


WAYS = (
    Way("frozen", adapt=False, frozen=True),
    Way("batch statistics", adapt=False, zero=True, hyper_parameters={"alpha": 1.0, **NO_MEMORY}),
    Way("one state", hyper_parameters=NO_MEMORY),
    Way("forgetful state", hyper_parameters={"least_batch_weight": 0.9, "memory_rate": 0.1}),
    Way("leaves alone", contexts=True, flat=True),
    Way("root and leaf", contexts=True),
)


def class_priors(protocol: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """One class prior per context, [contexts, 10]."""
    if protocol == "skewed":
        return rng.dirichlet([CONCENTRATION] * 10, len(CONTEXTS))
    priors = np.full((len(CONTEXTS), 10), 0.1)
    if protocol == "contradicting":
        priors = np.array(
            [[0.2 * (c // 5 == k % 2) for c in range(10)] for k in range(len(CONTEXTS))]
        )
    return priors


def visits(
    protocol: str, count: int, images: dict[str, NDArray[np.uint8]], labels: Any, seed: int
) -> Iterator[tuple[int, int, int, NDArray[np.uint8], Any]]:
    """Visit, context, batch within the visit, frames, labels."""
    rng = np.random.default_rng(seed)
    priors = class_priors(protocol, rng)
    of_class = [np.flatnonzero(labels == c) for c in range(10)]
    for visit in range(count):
        for k, name in enumerate(CONTEXTS):
            classes = rng.choice(10, VISIT, p=priors[k])
            if protocol == "correlated":
                classes = correlated(classes, rng)
            chosen = np.array([rng.choice(of_class[c]) for c in classes])
            for batch in range(VISIT // BATCH):
                part = chosen[batch * BATCH : (batch + 1) * BATCH]
                yield visit, k, batch, images[name][part], labels[part]


def correlated(classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Classes in PeTTA's order: each spread over slots by Dirichlet, contiguous within a slot.

    Source: Hoang et al., NeurIPS 2024, section 6, and the authors' code.
    """
    slots: list[list[NDArray[np.int64]]] = [[] for _ in range(SLOTS)]
    for c in np.unique(classes):
        count = int((classes == c).sum())
        shares = rng.multinomial(count, rng.dirichlet([SLOT_CONCENTRATION] * SLOTS))
        for slot, share in zip(slots, shares, strict=True):
            slot.append(np.full(share, c))
    for slot in slots:
        rng.shuffle(slot)  # type: ignore[arg-type]
    return np.concatenate([chunk for slot in slots for chunk in slot])


def bytes_written() -> int:
    """What this process has written so far (Linux)."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def run_way(
    way: Way, folder: Path, stream: Iterator[Any], count: int, threads: int, advance: Any
) -> dict[str, Any]:
    """Errors [visits, batches of a visit] of one way, and what it did."""
    bundle = folder / ("flat.edgemem" if way.flat else "bundle.edgemem")
    wrong = np.zeros((count, VISIT // BATCH))
    state, names = folder / "state.db", dict[tuple[int, int], list[str]]()
    events: Counter[str] = Counter()
    with edgemem.open(
        bundle, state, adapt=way.adapt, contexts=way.contexts, threads=threads,
        hyper_parameters=way.hyper_parameters,
    ) as runtime:  # fmt: skip
        if way.zero:
            runtime.rollback("zero")
        before = bytes_written()
        for visit, k, batch, frames, labels in stream:
            result = runtime.predict(frames, frozen=True) if way.frozen else runtime.step(frames)
            wrong[visit, batch] += (result.labels != labels).mean() / len(CONTEXTS)
            names.setdefault((visit, k), []).append(result.context)
            events.update(event.kind for event in result.events)
            advance()
        runtime.flush()
        written = bytes_written() - before
    for file in folder.glob("state.db*"):
        file.unlink()
    return {
        "error": float(wrong.mean()),
        "by_visit": wrong.mean(1).tolist(),
        "first_batches": float(wrong[1:, :2].mean()) if count > 1 else float("nan"),
        "last_visit": float(wrong[-1].mean()),
        "kilobytes_per_1000_frames": written / count / len(CONTEXTS) / VISIT,
        "recognised": _recognised(names, count) if way.contexts else None,
        "consolidated": events["consolidated"] if way.contexts else None,
        "refused": events["refused"] if way.contexts else None,
    }


def _recognised(names: dict[tuple[int, int], list[str]], count: int) -> float:
    """Part of all batches after the first visit that got a name their context had before."""
    hits = [
        name in {n for earlier in range(visit) for n in names[earlier, k]}
        for (visit, k), found in names.items()
        for name in found
        if visit
    ]
    return float(np.mean(hits)) if count > 1 else float("nan")


def make_bundles(data: Path, options: argparse.Namespace, folder: Path) -> None:
    """The bundle, and the same without a shared root."""
    import shutil

    import torch
    from cifar10c_model import Recipe, Variant, frozen_model, warmed_checkpoint

    from edgemem.export import Choices, export_bundle
    from edgemem.models import load_adaptive

    torch.set_num_threads(options.threads)
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


def corrupted(data: Path) -> tuple[dict[str, NDArray[np.uint8]], Any]:
    """2,000 test images under every corruption, channels first, and their labels."""
    images, labels = load_cifar10(data, "test")
    frost = frost_folder(data)
    found = {}
    with progress("corruptions") as bar:
        task = bar.add_task("corrupt", total=len(CONTEXTS), note="")
        for name in CONTEXTS:
            frames = corrupt(images[:2000], name, SEVERITY, seed=0, frost_folder=frost)
            found[name] = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
            bar.update(task, advance=1, note=name)
    return found, labels[:2000]


def measure(data: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every way under every protocol: means over the seeds."""
    make_bundles(data, options, folder)
    images, labels = corrupted(data)
    results: dict[str, Any] = {}
    with progress("batches") as bar:
        for protocol in PROTOCOLS:
            for way in WAYS:
                total = options.seeds * options.visits * len(CONTEXTS) * VISIT // BATCH
                task = bar.add_task(f"{protocol}: {way.name}", total=total, note="")

                def advance(task: TaskID = task) -> None:
                    bar.update(task, advance=1)

                runs = [
                    run_way(
                        way, folder, visits(protocol, options.visits, images, labels, seed),
                        options.visits, options.threads, advance,
                    )
                    for seed in range(options.seeds)
                ]  # fmt: skip
                results.setdefault(protocol, {})[way.name] = _mean(runs)
                bar.update(task, note=f"error {percent(_mean(runs)['error'])}")
    return results


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: None if runs[0][name] is None else np.mean([r[name] for r in runs], 0).tolist()
        for name in runs[0]
    }


def show(protocol: str, rows: dict[str, dict[str, Any]]) -> None:
    """One table."""
    last = len(next(iter(rows.values()))["by_visit"]) - 1
    table = [
        (
            name,
            percent(row["error"]),
            *(percent(row["by_visit"][visit]) for visit in (0, min(1, last), last)),
            percent(row["first_batches"]),
            percent(row["recognised"]),
            f"{row['kilobytes_per_1000_frames']:.0f}",
        )
        for name, row in rows.items()
    ]
    columns = ("way", "error", "visit 1", "2", str(last + 1), "first", "known", "kB")
    print_table(protocol, columns, table)


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


def whole(text: str) -> int:
    """Parser of a number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def read_options() -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    example = "example: python benchmarks/recurring.py --visits 5 --seeds 1 --json recurring.json"
    parser = argparse.ArgumentParser(description=__doc__, epilog=example)
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="2 visits, 1 seed, a short warm-up")
    add("--visits", type=whole, help="default 20")
    add("--seeds", type=whole, help="default 3")
    add("--threads", type=whole, default=2, help="default 2")
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
        visits=options.visits, seeds=options.seeds, threads=options.threads, batch=BATCH
    )
    choices = f"{options.visits} visits of {VISIT} frames, {options.seeds} seeds, batch {BATCH}"
    print("first: error of the first 2 batches of a return. known: batches of a return that got")
    print("a name their context had before. kB: written to disk per 1,000 frames.")
    print(setting_text(about, choices))
    found = {"benchmark": "recurring", "setting": about, "results": results}
    save_json(found, options.out / "recurring.json", options.json)
    draw(options.out / "recurring.png", results)
    print(f"Picture: {options.out / 'recurring.png'}")


if __name__ == "__main__":
    main()
