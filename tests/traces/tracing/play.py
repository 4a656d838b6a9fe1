"""Plays the calls of a trace by the public API, and notes what each led to."""

import hashlib
import shutil
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import fields
from threading import get_ident
from unittest.mock import patch

import numpy as np
import onnxruntime
from tracing.frames import ROOT, frames

import edgemem
from edgemem.bank.building.ship import ship
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.errors import EdgeMemError
from edgemem.state.store import State

FRAMES = ("step", "predict", "learn")  # calls that return predictions
OPTIONS = {field.name for field in fields(edgemem.Options)}


class Player:
    """Plays calls one after another. folder: of the trace. room: an empty folder to work in."""

    def __init__(self, trace, folder, room):
        self._folder, self._room = folder, room
        self._bundle, self._state, self._runtime = _bundle(trace, folder, room), None, None
        self._commit, self._written, self._runs = None, None, Counter()

    def play(self, call, threads=1):
        """What a call led to, as a trace notes it, and its logits (None without any)."""
        noted, logits, self._runs = {}, None, Counter()
        arguments = {name: value for name, value in call.items() if name not in ("call", "expect")}
        if "frames" in arguments:
            arguments["frames"] = frames(arguments["frames"], self._folder)
        if call["call"] == "open":
            arguments["threads"] = threads
        try:
            with np.errstate(all="ignore"), _counted(self._runs):
                found = self._made(call["call"], arguments)
        except EdgeMemError as error:
            noted["raises"] = type(error).__name__
        else:
            if call["call"] in FRAMES:
                logits = found.logits
                noted |= _result(found)
            elif found is not None:
                noted["returns"] = found
        if self._runtime is not None:
            noted["counters"] = dict(self._runtime.counters)
        if (commit := self._newly_committed(call["call"])) is not None:
            noted["commit"] = commit
        if runs := {kind: count for kind, count in sorted(self._runs.items()) if count}:
            noted["runs"] = runs
        return noted, logits

    def end(self):
        """Close what a trace that was cut short has left open."""
        if self._runtime is not None:
            self._made("close", {})

    def _newly_committed(self, name):
        """What the state file holds, if that is not what it held after the call before."""
        if self._state is None or not self._state.exists():
            return None
        written = None if self._runtime is None else self._runtime.bytes_written
        if name in FRAMES and written == self._written:
            return None
        before, self._written, self._commit = self._commit, written, committed(self._state)
        return None if self._commit == before else self._commit

    def _made(self, name, arguments):
        if name == "open":
            state = arguments.pop("state", None)
            self._state = None if state is None else self._room / state
            self._commit = None
            chosen = {name: arguments.pop(name) for name in OPTIONS & arguments.keys()}
            options = edgemem.Options(**chosen)
            self._runtime = edgemem.open(self._bundle, self._state, options=options, **arguments)
            return None
        if name in ("hide state", "show state"):
            _hide(self._state, back=name == "show state")
            return None
        runtime = self._runtime
        if name == "set":
            runtime.hyper_parameters.set({arguments["name"]: arguments["value"]})
            return None
        if name == "classes":
            return [[c.index, c.name, c.own, c.frames] for c in runtime.classes()]
        found = getattr(runtime, name)(**arguments)
        if name == "close":
            self._runtime = None
        return found


def committed(path):
    """What the state file holds: SHA-256 of the block in use, and of every written block.

    The only place that knows how to read a state file.
    """
    with closing(State(path, None, read_only=True)) as state:
        snapshot = next(state.snapshots(), None)
        if snapshot is None:
            return None
        block = {n: a for n, a in snapshot.arrays.items() if n.startswith("block.")}
        blocks = WrittenBlocks(state)
        written = {r.id: digest(blocks.read(r.id)[1]) for r in blocks.listing().records}
    return {"block": digest({n.removeprefix("block."): a for n, a in block.items()}), **written}


def digest(arrays):
    """SHA-256 of arrays: their bytes in C order, least byte first, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def _result(found):
    return {
        "labels": found.labels.tolist(),
        "context": found.context,
        "drift": found.drift,
        "adapted": found.adapted,
        "events": [str(event.kind) for event in found.events],
    }


def _bundle(trace, folder, room):
    """The bundle of a trace; a copy with levels where it brings some."""
    bundle = ROOT / trace["bundle"]
    if "levels" not in trace:
        return bundle
    made = room / "shipped.edgemem"
    ship(folder / trace["levels"], bundle, made)
    for change in trace.get("damage", ()):
        path = made / "bank" / change["file"]
        content = bytearray(path.read_bytes())
        content[change["byte"]] ^= 1
        path.write_bytes(content)
    return made


def _hide(state, *, back):
    """Take the state file and those beside it away, or bring them back."""
    away = state.parent / "away"
    away.mkdir(exist_ok=True)
    source, target = (away, state.parent) if back else (state.parent, away)
    for path in [p for p in source.iterdir() if p.name.startswith(state.name)]:
        shutil.move(path, target / path.name)


@contextmanager
def _counted(runs):
    """Count the runs of graphs that the caller waits for, by kind."""
    run, caller = onnxruntime.InferenceSession.run, get_ident()

    def counted(session, outputs, feeds, *rest):
        names = {value.name for value in session.get_outputs()}
        kind = "predict" if "logits" in names else "key"
        if "stat.updated" in names:
            kind = "learn" if "y" in feeds else "adapt"
        runs[kind] += get_ident() == caller
        return run(session, outputs, feeds, *rest)

    with patch.object(onnxruntime.InferenceSession, "run", counted):
        yield
