"""The ways in which a bundle runs over a recurring stream, and what is noted of them."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from recurring_streams import BATCH, CONTEXTS, VISIT, Images, visits

import edgemem

FLAT, HIERARCHY = "leaves alone", "root and leaf"
NO_MEMORY = {"least_batch_weight": 1.0, "prior_weight": 0.0}


@dataclass(frozen=True)
class Way:
    """How a bundle runs.

    bundle: "bundle"; "flat", where no array has a share of the root; or "shipped", with levels that
    hold what another device learnt. zero: nothing warmed up. visits: at most so many.
    """

    name: str
    adapt: bool = True
    contexts: bool = False
    bundle: str = "bundle"
    zero: bool = False
    frozen: bool = False
    visits: int = 1000
    hyper_parameters: dict[str, float] = field(default_factory=dict)


WAYS = (
    Way("frozen", adapt=False, frozen=True),
    Way("batch statistics", adapt=False, zero=True, hyper_parameters={"alpha": 1.0, **NO_MEMORY}),
    # Slowly, which is better for it than the bundle's own rate in two of three protocols.
    Way("one state", hyper_parameters={**NO_MEMORY, "learning_rate": 0.001}),
    Way("forgetful state", hyper_parameters={"least_batch_weight": 0.9, "memory_rate": 0.1}),
    Way(FLAT, contexts=True, bundle="flat"),
    Way(HIERARCHY, contexts=True),
    Way("shipped levels", contexts=True, bundle="shipped", visits=3),
)


def bytes_written() -> int:
    """What this process has written so far (Linux)."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def run_way(
    folder: Path, protocol: str, way: Way, seed: int, count: int, threads: int
) -> dict[str, Any]:
    """Errors by visit of one way under one protocol, and what it did."""
    images, labels = load_images(folder)
    count = min(count, way.visits)
    stream = visits(protocol, count, images, labels, seed)
    name = f"shipped-{protocol}" if way.bundle == "shipped" else way.bundle
    noted = Noted(count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        before = bytes_written()
        with edgemem.open(
            folder / f"{name}.edgemem", Path(place) / "state.db", adapt=way.adapt,
            contexts=way.contexts, threads=threads, hyper_parameters=way.hyper_parameters,
        ) as runtime:  # fmt: skip
            if way.zero:
                runtime.rollback("zero")
            for visit, k, batch, frames, truth in stream:
                began = time.perf_counter()
                frozen = way.frozen
                result = runtime.predict(frames, frozen=True) if frozen else runtime.step(frames)
                seconds = time.perf_counter() - began
                noted.take(visit, k, batch, result, truth, seconds)
        written = bytes_written() - before
    per_thousand = written / count / len(CONTEXTS) / VISIT
    return {**noted.figures(way.contexts), "kilobytes_per_1000_frames": per_thousand}


def load_images(folder: Path) -> tuple[Images, Any]:
    """What `recurring.py` saved: frames by context, and labels."""
    images = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in CONTEXTS}
    return images, np.load(folder / "labels.npy")


class Noted:
    """What is noted of every batch."""

    def __init__(self, visits: int) -> None:
        self.wrong = np.zeros((visits, VISIT // BATCH))
        self.names: dict[tuple[int, int], list[str]] = {}
        self.events: Counter[str] = Counter()
        self.times: dict[bool, list[float]] = {False: [], True: []}

    def take(
        self, visit: int, k: int, batch: int, result: edgemem.Result, truth: Any, seconds: float
    ) -> None:
        """Note one batch of context number k."""
        kinds = [event.kind for event in result.events]
        self.times["context" in kinds].append(1000 * seconds)
        self.wrong[visit, batch] += (result.labels != truth).mean() / len(CONTEXTS)
        self.names.setdefault((visit, k), []).append(result.context)
        self.events.update(kinds)

    def figures(self, contexts: bool) -> dict[str, Any]:
        """Errors; and, where contexts are told apart, how well and at what price."""
        wrong, times = self.wrong, self.times
        step = float(np.median(times[False]))
        switch = float(np.median(times[True])) - step if times[True] else None
        return {
            "error": float(wrong.mean()),
            "by_visit": wrong.mean(1).tolist(),
            "first_batches": float(wrong[1:, :2].mean()) if len(wrong) > 1 else float("nan"),
            "recognised": self._recognised() if contexts else None,
            "consolidated": self.events["consolidated"] if contexts else None,
            "refused": self.events["refused"] if contexts else None,
            "step_ms": step,
            "switch_ms": switch,
        }

    def _recognised(self) -> float:
        """Part of all batches after the first visit that got a name their context had before."""
        hits = [
            name in {n for earlier in range(visit) for n in self.names[earlier, k]}
            for (visit, k), found in self.names.items()
            for name in found
            if visit
        ]
        return float(np.mean(hits)) if hits else float("nan")
