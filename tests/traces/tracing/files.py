"""Traces as files: `trace.json`, one call a line, and `arrays.npz`. See docs/traces.md."""

import json
import tempfile
from pathlib import Path

import numpy as np
from tracing.frames import ROOT
from tracing.machine import machine
from tracing.play import Player

from edgemem.bundle.opening import open_bundle

FORMAT = 1
RECORDED = ROOT / "tests" / "traces" / "recorded"
TOLERANCE = 1e-4
TRACE, ARRAYS = "trace.json", "arrays.npz"


def names():
    """All traces that are kept."""
    return sorted(path.parent.name for path in RECORDED.glob(f"*/{TRACE}"))


def read(name):
    """The trace, and its logits [n, classes] float32."""
    trace = json.loads((RECORDED / name / TRACE).read_text())
    if trace["format"] != FORMAT:
        raise ValueError(f"trace {name} has format {trace['format']}, this reads {FORMAT}")
    with np.load(RECORDED / name / ARRAYS) as arrays:
        return trace, arrays["logits"]


def played(trace, name, threads=1):
    """Every call of a trace that is played now: what it led to, and its logits."""
    if open_bundle(ROOT / trace["bundle"]).identity != trace["identity"]:
        raise ValueError(f"trace {name} is of another bundle: record it again")
    with tempfile.TemporaryDirectory() as room:
        player = Player(trace, RECORDED / name, Path(room))
        try:
            for call in trace["calls"]:
                yield player.play(call, threads)
        finally:
            player.end()


def record(name, about, bundle, calls, arrays, tolerance=TOLERANCE, **more):
    """Play calls, and write what they lead to as a trace. arrays: that rules of frames name.
    tolerance: of logits on another machine; None where steps run away and blow up the last bits."""
    folder = RECORDED / name
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / ARRAYS, **arrays)
    identity = open_bundle(ROOT / bundle).identity
    trace = {"format": FORMAT, "about": about, "bundle": bundle, "identity": identity,
             **more, "tolerance": tolerance, "machine": machine(), "calls": calls}  # fmt: skip
    rows, all_logits, kept = 0, [], []
    for call, (noted, logits) in zip(calls, played(trace, name), strict=True):
        if logits is not None:
            noted["logits"] = [rows, len(logits)]
            rows += len(logits)
            all_logits.append(logits)
        kept.append({**call, "expect": noted})
    np.savez_compressed(folder / ARRAYS, **arrays, logits=np.concatenate(all_logits))
    (folder / TRACE).write_text(_text({**trace, "calls": kept}))
    return kept


def _text(trace):
    head = json.dumps({name: value for name, value in trace.items() if name != "calls"}, indent=1)
    calls = ",\n  ".join(json.dumps(call, allow_nan=False) for call in trace["calls"])
    return f'{head[:-2]},\n "calls": [\n  {calls}\n ]\n}}\n'
