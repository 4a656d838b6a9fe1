"""Real processes on one state file, and what they said before they ended."""

import os
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from edgemem.bank.written.record import Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State

# A writing run: blocks and a snapshot in one commit, and a line on standard output after it.
WRITER = """
import sys
import numpy as np
from edgemem.bank.written.record import Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State


def commit(state, number):
    blocks, name = WrittenBlocks(state), f"context {number % 7}"
    with state.transaction():
        arrays = {"w": np.full(1 + 997 * (number % 5), number, np.float32)}
        origin = Provenance("bundle", number, 0.5, "fault test")
        blocks.put(name, arrays, path="1/2", key=[number], count=number, provenance=origin)
        if number % 11 == 0 and len(list(blocks.intact(name))) > 1:
            blocks.rollback(name)
        if number % 13 == 0:
            blocks.evict(60_000, keep=[name])
        if number % 50 == 0:
            blocks.forget(name)
        state.write(Snapshot({"a": np.full(500, number, np.float32)}, {"steps": number}))


"""


@pytest.fixture
def run():
    """Run Python code, after `WRITER`, in a process of its own."""

    def run_code(code, *arguments, **options):
        return subprocess.run(
            [sys.executable, "-c", WRITER + code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return run_code


@pytest.fixture
def start():
    """Start a process of `WRITER` and more code; it is killed after the test."""
    processes = []

    def start_code(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER + code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start_code
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def committed():
    """Write numbered blocks to a state in this process."""

    def commit(path, *numbers):
        with closing(State(path, "bundle")) as state:
            for number in numbers:
                commit_one(state, number)

    return commit


def commit_one(state, number):
    origin = Provenance("bundle", number, 0.5, "fault test")
    with state.transaction():
        WrittenBlocks(state).put(
            f"context {number % 3}",
            {"w": np.full(300, number, np.float32)},
            path="1/2",
            key=[number],
            count=1,
            provenance=origin,
        )
        state.write(Snapshot({}, {"steps": number}))


@pytest.fixture
def checked():
    """Open a state once; everything in it must verify. Returns (blocks by id, steps)."""

    def check(path, **options):
        with closing(State(path, "bundle", **options)) as state:
            blocks = WrittenBlocks(state)
            assert blocks.verify() == []
            found = {}
            for record in blocks.listing().records:
                arrays = blocks.read(record.id)[1]
                assert (arrays["w"] == record.provenance.steps).all()
                found[record.id] = record
            snapshot = state.read()
        assert not os.path.lexists(f"{path}-lock")
        return found, snapshot.counters["steps"] if snapshot else 0

    return check
