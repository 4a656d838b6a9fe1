"""Memory plans: graphs of the same step that differ in time and memory, measured at export."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from edgemem.block import Array
from edgemem.bundle.manifest import PROFILES, Plan
from edgemem.errors import ExportError
from edgemem.export.checks.differences import block_differences, slot_differences
from edgemem.export.checks.onnx_graphs import Arrays, run_graph, session
from edgemem.export.checks.parity_result import SLOT_TOLERANCE
from edgemem.export.lowering.recompute import recompute

NAMES = {"adapt": "fast", "adapt_balanced": "balanced", "adapt_lean": "lean"}
WORTH = 0.95  # a slower plan that needs more than this part of the bytes of a faster one is dropped
THREADS = 2
TOLERANCE = 1e-4
REMEMBERED = ".remembered_"  # in the names of what moves by averaging, not along a gradient
MODULE = "edgemem.runtime.tools.plan_cost"


def plan_graphs(step: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """Graph name -> graph of the step.

    As it is, and with activations computed again, if it has any.
    """
    graphs = {"adapt": step, "adapt_balanced": recompute(step, 2), "adapt_lean": recompute(step)}
    sizes = {name: len(graph.graph.node) for name, graph in graphs.items()}
    return {
        name: graph
        for number, (name, graph) in enumerate(graphs.items())
        if sizes[name] not in list(sizes.values())[:number]
    }


def check_plans(
    folder: Path, graphs: list[str], inputs: Mapping[str, Tensor], suffix: str = ""
) -> None:
    """Run every graph of the step as it was written.

    Args:
        folder: holds the graphs as files.
        graphs: names of those of the step, `adapt` first.
        inputs: of the step, by name.
        suffix: of the files' names, behind those of graphs.

    Raises:
        ExportError: one does not compute what `adapt` does.
    """
    expected = run_graph(session(folder / f"adapt{suffix}.onnx"), inputs)
    for name in graphs[1:]:
        found = run_graph(session(folder / f"{name}{suffix}.onnx"), inputs)
        if wrong := _others(found, expected):
            raise ExportError(f"plan {NAMES[name]!r}", f"gives another {wrong[0]}", "Report this")


def measured_plans(
    folder: Path, graphs: list[str], inputs: Mapping[str, Tensor], suffix: str = ""
) -> list[Plan]:
    """Run every plan as a device would; those worth having, the fastest first.

    Args: as `check_plans`.

    Raises:
        ExportError: a plan does not run.
    """
    with tempfile.TemporaryDirectory(prefix="edgemem-") as scratch:
        values = Path(scratch) / "inputs.npz"
        arrays: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
        np.savez(values, **arrays)
        plans = [
            _measure(folder, name, suffix, profile, values)
            for profile in PROFILES
            for name in graphs
        ]
    return _worth_having(plans)


def _others(found: Arrays, expected: Arrays) -> list[str]:
    """Names of what differs by more than rounding: an engine may fuse plans differently.

    What is learnt and its slots are gradients, which have the limit of those against torch.
    """
    learnt = block_differences(found, expected) | slot_differences(found, expected)
    wrong = [name for name, value in learnt.items() if not value <= SLOT_TOLERANCE]
    own = [name for name in expected if name not in learnt or REMEMBERED in name]
    return wrong + [name for name in own if not _same(found[name], expected[name])]


def _same(found: Array, expected: Array) -> bool:
    """Relative to the largest value."""
    largest = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(found - expected).max(initial=0.0)) <= TOLERANCE * largest


def _worth_having(plans: list[Plan]) -> list[Plan]:
    """The first plan, and each that needs clearly less memory than all faster ones.

    What computes more for hardly less memory can be faster by chance only, so it is dropped first.
    """
    fastest, *others = [
        plan
        for k, plan in enumerate(plans)
        if all(p.profile != plan.profile or plan.bytes < WORTH * p.bytes for p in plans[:k])
    ]
    kept = [fastest]
    for plan in sorted(others, key=lambda plan: plan.milliseconds):
        if plan.bytes < WORTH * kept[-1].bytes:
            kept.append(plan)
    return kept


def _measure(folder: Path, graph: str, suffix: str, profile: str, values: Path) -> Plan:
    files = [folder / f"{name}{suffix}.onnx" for name in ("predict", graph)]
    paths = [*map(str, files), str(values)]
    words = [sys.executable, "-m", MODULE, *paths, profile, str(THREADS)]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"plan {NAMES[graph]!r}", f"does not run ({last})", "Report this")
    found = json.loads(finished.stdout)
    name = NAMES[graph] if profile == "latency" else f"{NAMES[graph]}, mapped"
    return Plan(name, graph, profile, int(found["bytes"]), round(found["milliseconds"], 3))
