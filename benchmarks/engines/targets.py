"""What every engine that is here makes of a bundle: differences from torch, nodes, milliseconds.

Run it in the environments of `make test-litert` and `make test-npu`, with their bundles. An
emulated NPU gives no times: what it takes tells nothing about a phone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.report import save_json, setting, setting_text
from edgemem.bundle.opening import Bundle, open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.cli.show import print_table
from edgemem.errors import EdgeMemError
from edgemem.runtime.engines.choice import EngineSettings, open_backend, usable
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.engines.providers import PROVIDERS, is_emulated
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.tools.verification import verify

RUNS = {True: 20, False: 200}


def milliseconds(bundle: Bundle, backend: Backend, runs: int) -> dict[str, float]:
    """The fastest of many calls of each graph on a full batch."""
    manifest = bundle.manifest
    graphs, x = Graphs(bundle, backend), reference_frames(manifest.frames, 0)
    hyper_parameters = {name: value.default for name, value in manifest.hyper_parameters.items()}
    slots = manifest.slots.zero()
    calls = {
        "predict": lambda: graphs.predict(x, bundle.generic, hyper_parameters),
        "adapt": lambda: graphs.adapt(x, bundle.generic, slots, hyper_parameters),
    }
    found = dict.fromkeys(calls, np.inf)
    for _ in range(runs):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name] = min(found[name], 1000 * (time.perf_counter() - began))
    return found


def measured(bundle: Bundle, provider: str, runs: int) -> dict[str, Any]:
    """One row."""
    backend = open_backend(bundle, provider, EngineSettings(threads=1))
    checked = verify(bundle.path, 1, provider)
    nodes = _nodes(bundle, backend) if provider not in ("cpu", "litert") else {}
    times = None if is_emulated(PROVIDERS[provider]) else milliseconds(bundle, backend, runs)
    return {"engine": backend.name, "checked": checked.as_dict(), "nodes": nodes, "ms": times}


def _nodes(bundle: Bundle, backend: Backend) -> dict[str, dict[str, int]]:
    """Of each graph, how many nodes which processor took."""
    found = {}
    for name in ("predict", "adapt"):
        binding = bundle.manifest.binding(name, backend.target)
        assert binding is not None
        found[name] = backend.open(bundle.path / binding.file, binding).nodes  # type: ignore[attr-defined]
    return found


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Tables."""
    table = [
        (
            name,
            *(f"{row['checked'][kind]:.0e}" for kind in ("frozen", "adapt", "adapted")),
            *(f"{row['ms'][kind]:.2f}" if row["ms"] else "–" for kind in ("predict", "adapt")),
        )
        for name, row in rows.items()
    ]
    columns = ("provider", "frozen", "step", "after", "ms predict", "ms step")
    print_table("differences from torch, and times of a batch", columns, table)
    for name, row in rows.items():
        print(f"{name}: {row['engine']}" + (f"; nodes {row['nodes']}" if row["nodes"] else ""))


def show_partitions(report: dict[str, Any]) -> None:
    """What phones would take of the graphs for NPUs, as export found it."""
    rows = [
        (f"{provider}, {name}", *(str(found[key]) for key in ("nodes", "supported", "partitions")))
        for provider in ("coreml", "nnapi")
        for name, found in report.get(provider, {}).items()
    ]
    if rows:
        print_table("by lists of operators", ("graph", "nodes", "supported", "partitions"), rows)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    bundle, rows = open_bundle(options.bundle), {}
    for name, provider in PROVIDERS.items():
        if (reason := usable(bundle, provider)) is not None:
            print(f"{name} skipped: {reason}")
            continue
        try:
            rows[name] = measured(bundle, name, RUNS[options.quick])
        except EdgeMemError as error:
            print(f"{name} fails: {error}")
    show(rows)
    show_partitions(bundle.manifest.exported_from.get("targets", {}).get("npu", {}))
    about = setting(batch=bundle.manifest.frames.batch, threads=1, quick=options.quick)
    print(setting_text(about, "one thread"))
    found = {"benchmark": "targets", "setting": about, "results": rows}
    save_json(found, Path("results/targets.json"), options.json)


if __name__ == "__main__":
    main()
