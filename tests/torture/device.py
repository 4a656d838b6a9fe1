"""A small device: its bundle, its frames, and what it says of each commit before and after.

Every commit is announced with all that the file will hold, to the last bit, and acknowledged once
`edgemem` has returned. So after any fault the file must hold one of two contents.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from opening import opened_with
from teachable import frames_of, stream_of

import edgemem
from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.bundle.opening import open_bundle
from edgemem.runtime.guard.escalation import Rung
from edgemem.runtime.persistence.commits import MOST_STEPS, Commits
from edgemem.state.store import State
from edgemem.testing import session_of

LEFT, RIGHT, CAT = 0, 1, 2
PLACES = (0.4, 0.8, -0.4, -0.8)  # contexts, so far from the source


class Held(NamedTuple):
    """What a state file holds. steps: of the snapshot. digest: of everything."""

    steps: int
    digest: str


NOTHING = Held(0, "")


def held(state, snapshot=None):
    """What an open state holds, or will hold with this snapshot."""
    snapshot = state.read() if snapshot is None else snapshot
    if snapshot is None:
        return NOTHING
    digest = hashlib.sha256(json.dumps(snapshot.counters, sort_keys=True).encode())
    for name, array in sorted(snapshot.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for record in WrittenBlocks(state).listing().records:
        digest.update(f"{record.id} {record.version} {record.payload_sha256}".encode())
    return Held(snapshot.counters["steps"], digest.hexdigest())


class Journal:
    """Lines of JSON to a descriptor, each written at once: what is said stays when it dies."""

    def __init__(self, handle):
        self._handle = handle

    def say(self, kind, *words):
        """Write one line."""
        os.write(self._handle, json.dumps([kind, *words]).encode() + b"\n")


class Said:
    """What a device said: `sure` is the last content that it knows to be in its file, `next` the
    one that it began to write after that; `taken` steps had returned. heard: how much it said."""

    def __init__(self, sure=NOTHING):
        self.sure, self.next, self.taken = sure, None, sure.steps
        self.ready, self.path, self.heard = False, None, 0

    def say(self, kind, *words):
        """Take one thing that was said."""
        self.heard += 1
        if kind == "intend":
            self.next = Held(*words)
        elif kind == "wrote":
            self.sure, self.next = self.next or self.sure, None
        elif kind == "taken":
            self.taken = words[0]
        elif kind == "ready":
            self.ready = True
        elif kind == "new file":
            self.__init__(Held(*words[1:]) if words[1:] else NOTHING)
            self.path, self.ready = words[0], True

    def hear(self, content):
        """Lines of a journal; the last may have been cut off."""
        for line in content.split(b"\n")[:-1]:
            self.say(*json.loads(line))


@contextmanager
def announced(journal):
    """Let every commit of a runtime in this process be announced and acknowledged."""
    write_snapshot, commit = State.write, Commits.write

    def announced_write(state, snapshot):
        write_snapshot(state, snapshot)
        trace = sys.gettrace()
        sys.settrace(None)  # what is only said here is no line of the call
        journal.say("intend", *held(state, snapshot))
        sys.settrace(trace)

    def acknowledged_commit(*values, **options):
        committed = commit(*values, **options)
        journal.say("wrote")
        return committed

    State.write, Commits.write = announced_write, acknowledged_commit
    try:
        yield
    finally:
        State.write, Commits.write = write_snapshot, commit


class Verdict(NamedTuple):
    """After a fault. content: which of its two the file holds, "old" or "new". wrong: what is.
    lost: steps that had been taken and are not there."""

    content: str
    wrong: list[str]
    lost: int = 0


def judged(path, bundle, said, *, run=True):
    """Judge a state file after a fault by what its device had said; run: also go on with it."""
    content, wrong, lost = "", [], 0
    try:
        found, wrong = _found(path, bundle)
        lost = max(0, said.taken - found.steps)
        if found == said.sure:
            content = "old"
        elif said.next is not None and found == said.next:
            content = "new"
        else:
            wrong.append(f"holds {found}, neither {said.sure} nor {said.next}")
        if lost >= MOST_STEPS:
            wrong.append(f"{said.taken} steps were taken, {found.steps} are there")
        if run:
            wrong += _going_on(path, bundle, found)
    except (edgemem.EdgeMemError, sqlite3.Error, OSError, LookupError, ValueError) as error:
        wrong.append(f"{type(error).__name__}: {error}")
    return Verdict(content, wrong, lost)


def _found(path, bundle):
    with closing(State(path, open_bundle(bundle).identity)) as state:
        wrong = [f"damage: {error}" for error in WrittenBlocks(state).verify()]
        snapshot = state.read()
        if snapshot is None:
            return NOTHING, wrong
        wrong += [f"damage: {text}" for text in snapshot.damage]
        return held(state, snapshot), wrong


def _going_on(path, bundle, found):
    with opened(bundle, path) as runtime:
        runtime.step(batch(found.steps))
        steps = runtime.counters["steps"]
        # On a rung of the guard rails nothing is learnt: it was committed, and it holds.
        learns = session_of(runtime).watch.escalation.rung is Rung.LEARN
    after = holds(path).steps
    if steps == after == found.steps + learns:
        return []
    return [f"from step {found.steps} it went on to {steps}, and {after} were committed"]


def holds(path):
    """What the file at a path holds; nothing if it is not there."""
    if not Path(path).exists():
        return NOTHING
    with closing(State(path, None)) as state:
        return held(state)


def opened(bundle, path, **options):
    """A runtime on one thread."""
    return opened_with(
        bundle, path, threads=1, provider="cpu", hyper_parameters={"learning_rate": 0.1}, **options
    )


def batch(number, place=None):
    """A full batch of frames [16, 6]; every so often in another context, if none is given."""
    away = PLACES[number // 3 % len(PLACES)] if place is None else place
    return stream_of([LEFT, RIGHT], 16, number, away)[0]


def lesson(number):
    """Two labelled frames and their classes."""
    x = np.concatenate([frames_of(LEFT, 1, number), frames_of(CAT, 1, number)])
    return x, ["left", "cat"]


def live(bundle, path):
    """Steps in every context, and a lesson."""
    with opened(bundle, path) as runtime:
        for _ in range(24):
            runtime.step(batch(runtime.counters["steps"]))
        runtime.learn(*lesson(runtime.counters["steps"]))


def prepared(bundle, folder):
    """An earlier state; the same with the blocks that the device learnt later; a file of these."""
    earlier, later, blocks = (folder / name for name in ("0.db", "1.db", "1.safetensors"))
    if not folder.exists():
        folder.mkdir()
        live(bundle, earlier)
        shutil.copy(earlier, later)
        live(bundle, later)
        with closing(State(later, None)) as state:
            export_blocks(state, blocks)
        shutil.copy(earlier, later)
        with closing(State(later, None)) as state:
            assert import_blocks(state, blocks).taken
    return earlier, later, blocks


def knows_cat(runtime):
    """Whether the class that is taught is known."""
    return any(info.name == "cat" for info in runtime.classes())


def fast_folder():
    """A new folder in memory where there is one: what is tested is not the disk's own speed."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix="edgemem-torture-", dir=memory if os.access(memory, os.W_OK) else None
    )
