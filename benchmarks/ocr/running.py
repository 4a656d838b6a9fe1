"""One network: exported by the command, run on the device's runtime, beside the file as given."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgemem
from benchmarks.ocr.networks import Network, given_answers
from benchmarks.ocr.scoring import Floats
from benchmarks.ocr.shifts import CLEAN, SHIFTS, shifted
from benchmarks.shared.answering import answers, stream

BATCH = 16
SOURCE_SEED, SEED = 100, 0  # of source frames; of frames to be read, and of their shifts
WAYS = {"statistics": {"learning_rate": 0.0}, "step": {}}  # hyper-parameters besides the bundle's


def exported(network: Network, frames: int, folder: Path) -> tuple[Path, float]:
    """A bundle by `edgemem export` with so many unlabelled source frames; the seconds it took."""
    source, out = folder / f"{network.file}.npz", folder / f"{network.file}.edgemem"
    np.savez(source, x=network.frames(frames, SOURCE_SEED)[0])
    began = time.monotonic()
    command = [Path(sys.executable).parent / "edgemem", "export", network.path, "--out", out]
    options = [*network.options, "--source", source, "--batch", BATCH]
    subprocess.run(list(map(str, command + options)), check=True)
    return out, time.monotonic() - began


def chosen(bundle: Path) -> dict[str, Any]:
    """What export decided: how many sites, weight of the target's moments, rate of steps."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    parameters = manifest["hyper_parameters"]
    return {
        "sites": len(manifest["exported_from"]["sites"]),
        "alpha": parameters["alpha"]["default"],
        "learning_rate": parameters["learning_rate"]["default"],
    }


def figures(network: Network, bundle: Path, count: int, threads: int) -> dict[str, Any]:
    """Errors under every shift: of the file as given, and of the bundle in every way.

    Every shift is a stream of its own, which starts from the bundle as exported.
    """
    frames, right = network.frames(count, SEED)
    rows: dict[str, Any] = {}
    away = 0.0
    for name in (CLEAN, *SHIFTS):
        x = shifted(frames, name, SEED)
        given = given_answers(network.path, x, BATCH, threads)
        row: dict[str, Any] = {"given": network.error(given, right)}
        for way, parameters in WAYS.items():
            with edgemem.open(bundle, threads=threads, hyper_parameters=parameters) as runtime:
                at_rest = answers(runtime.predict(x[:BATCH], frozen=True))
                away = max(away, _difference(network, at_rest, given[:BATCH]))
                found, told = stream(runtime, x, BATCH)
            row[way] = network.error(found, right)
            row[f"{way}_events"] = told
        rows[name] = row
        print(network.title, name, row, flush=True)
    assert "torch" not in sys.modules, "a device has none"
    return {"errors": rows, "largest_difference_at_rest": away, "frames": count}


def _difference(network: Network, own: Floats, given: Floats) -> float:
    """Of probabilities."""
    if network.task == "classes":
        odds = np.exp(own - own.max(1, keepdims=True))
        own = odds / odds.sum(1, keepdims=True)
    return float(np.abs(own - given).max())
