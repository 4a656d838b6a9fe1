"""Plays a trace again, and says where what happens differs from what it tells."""

from dataclasses import dataclass

import numpy as np
from tracing.files import played, read
from tracing.machine import machine

TRIES = 5  # of a trace whose rows came too late
EXACT = (
    "raises",
    "returns",
    "labels",
    "context",
    "drift",
    "adapted",
    "events",
    "counters",
    "commit",
)
# What does not hang on the last bits, as long as no threshold is crossed.
ROUGH = ("raises", "returns", "context", "adapted", "events", "counters")


@dataclass(frozen=True)
class Replay:
    """What a replay found. differences: in words. calls: that were compared, of `total`. distance:
    the largest between logits. runs: of graphs, recorded and now, by call."""

    exact: bool
    differences: list[str]
    calls: int
    total: int
    distance: float
    runs: list[tuple[int, int]]


def replay(name, exact=None, threads=1):
    """Play a trace and compare. exact: to the bit; None = where the machine is that of the trace.

    Else a comparison ends, without a fault, at the first call whose events are others: from there
    on another block is in use.
    """
    trace, logits = read(name)
    exact = trace["machine"] == machine() if exact is None else exact
    for _ in range(TRIES):
        found = list(played(trace, name, threads))
        if _in_time(trace["calls"], found):
            break
    return compared(trace, found, logits, exact)


def _in_time(calls, found):
    """Whether no shipped row came later than in the trace, which a busy machine can cause."""
    pairs = zip(calls, found, strict=True)
    return not any(
        "reading" in noted.get("events", ()) and "reading" not in call["expect"]["events"]
        for call, (noted, _) in pairs
    )


def compared(trace, found, logits, exact):
    """What was played, beside what a trace tells."""
    calls, atol = trace["calls"], trace["tolerance"]
    differences, distance, count, runs = [], 0.0, 0, []
    for number, (call, (noted, own)) in enumerate(zip(calls, found, strict=True)):
        expected, which = call["expect"], f"call {number} ({call['call']})"
        wrong = [name for name in (EXACT if exact else ROUGH)
                 if noted.get(name) != expected.get(name)]  # fmt: skip
        if wrong and not exact:
            break
        told = [f"{which}: {n} is {noted.get(n)}, not {expected.get(n)}" for n in wrong]
        if own is not None and not wrong:
            first, rows = expected["logits"]
            recorded = logits[first : first + rows]
            same = recorded.tobytes() == own.tobytes() and recorded.shape == own.shape
            away = 0.0 if same or (atol is None and not exact) else _distance(recorded, own)
            distance = max(distance, away)
            if not same if exact else away > (atol or 0.0):
                told.append(f"{which}: logits are up to {away:.3g} away")
        differences += told
        runs.append(tuple(sum(n.get("runs", {}).values()) for n in (expected, noted)))
        count += 1
    return Replay(exact, differences, count, len(calls), distance, runs)


def _distance(one, other):
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return np.inf
    finite = np.isfinite(one)
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0))
