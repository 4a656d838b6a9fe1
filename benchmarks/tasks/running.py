"""One study: its file by the export command, the bundle on the device's runtime, beside the file.

Every condition is a stream of its own, which starts from the bundle as exported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import edgemem
from benchmarks.shared.answering import answers, stream
from benchmarks.tasks.studies import DEVIATION, MEAN, Frames, Study, to_tensor
from benchmarks.tasks.training import write_onnx

BATCH, SOURCE_FRAMES = 16, 256
STATISTICS, STEP = "statistics", "step"


def figures(
    study: Study, model: nn.Module, count: int, threads: int, folder: Path
) -> dict[str, Any]:
    """Errors under every condition: of the model as given, with statistics alone, with steps."""
    source = study.training(SOURCE_FRAMES)[0]
    file = folder / "model.onnx"
    write_onnx(model, source.shape[1:], file)
    np.savez(folder / "source.npz", x=source)
    ways = {STATISTICS: ("--objective", "statistics"), STEP: study.options}
    bundles = {way: _exported(study, file, options, way) for way, options in ways.items()}
    rows: dict[str, dict[str, Any]] = {}
    away = 0.0
    for name, (frames, right) in study.conditions(count).items():
        given = _given(model, frames)
        rows[name] = {"given": study.error(given, right)}
        for way, bundle in bundles.items():
            with edgemem.open(bundle, threads=threads) as runtime:
                rest = runtime.predict(frames[:BATCH], frozen=True)
                away = max(away, _difference(answers(rest), given[:BATCH]))
                found, told = stream(runtime, frames, BATCH)
            rows[name] |= {way: study.error(found, right), f"{way}_events": told}
        print(study.title, name, rows[name], flush=True)
    choices = {way: _chosen(bundle) for way, bundle in bundles.items()}
    about = {"measure": study.measure, "frames": count, "largest_difference_at_rest": away}
    return {"errors": rows, "exports": choices, **about}


def _exported(study: Study, file: Path, options: tuple[str, ...], name: str) -> Path:
    out = file.with_name(f"{name}.edgemem")
    words = ["export", file, "--out", out, "--task", study.task, "--batch", BATCH]
    words += ["--source", file.with_name("source.npz"), *options]
    source = study.training(1)[0]
    if source.dtype == np.uint8:
        three = "{0},{0},{0}".format
        words += ["--mean", three(MEAN), "--std", three(DEVIATION)]
    command = [Path(sys.executable).parent / "edgemem", *words]
    subprocess.run(list(map(str, command)), check=True)
    return out


def _chosen(bundle: Path) -> dict[str, Any]:
    manifest = json.loads((bundle / "manifest.json").read_text())
    values = {name: held["default"] for name, held in manifest["hyper_parameters"].items()}
    found = {name: values.get(name) for name in ("alpha", "learning_rate")}
    return {"sites": manifest["exported_from"]["sites"], **found}


def _given(model: nn.Module, frames: Frames) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [model(to_tensor(frames[k : k + BATCH])) for k in range(0, len(frames), BATCH)]
    return torch.cat(parts).numpy()


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max() / max(1e-9, np.abs(other).max()))
