import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE
from edgemem.state.store import Snapshot, State

STEPPER = """
import sys, numpy as np, edgemem
from edgemem.demo import BUNDLE, STREAM
x = np.load(STREAM)["x"]
with edgemem.open(BUNDLE, sys.argv[1], threads=1) as runtime:
    print("ready", flush=True)
    while True:
        n = runtime.counters["frames"]
        runtime.step(x[n % 4000 : n % 4000 + 5])
        runtime.flush()
        print("committed", flush=True)
"""


def snapshot(value=1.0):
    return Snapshot({"a": np.full(3, value, np.float32)}, {"steps": int(value)})


def test_the_newest_commit_comes_back(tmp_path):
    state = State(tmp_path / "s.db", "bundle")
    assert state.read() is None
    for value in (1.0, 2.0, 3.0):
        state.write(snapshot(value))
    state.close()
    found = State(tmp_path / "s.db", "bundle").read()
    np.testing.assert_array_equal(found.arrays["a"], snapshot(3.0).arrays["a"])
    assert found.counters == {"steps": 3}


def test_a_state_of_another_bundle_is_refused_and_untouched(tmp_path):
    state = State(tmp_path / "s.db", "one")
    state.write(snapshot())
    state.close()
    with pytest.raises(edgemem.StateError, match="belongs to another bundle"):
        State(tmp_path / "s.db", "two")
    assert State(tmp_path / "s.db", "one").read().counters == {"steps": 1}


def test_a_second_owner_is_refused(tmp_path):
    first = State(tmp_path / "s.db", "bundle")
    with pytest.raises(edgemem.StateError, match="locked"):
        State(tmp_path / "s.db", "bundle")
    first.close()


def test_other_files_are_refused_and_untouched(tmp_path):
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("hello, this is not a database" * 50)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(edgemem.StateError, match="not a"):
            State(path, "bundle")
        assert path.read_bytes() == before


def test_a_damaged_snapshot_is_refused(tmp_path):
    state = State(tmp_path / "s.db", "bundle")
    state.write(snapshot())
    state.close()
    database = sqlite3.connect(tmp_path / "s.db")
    database.execute("UPDATE snapshot SET counters = '{\"steps\": 9}'")
    database.commit()
    database.close()
    with pytest.raises(edgemem.StateError, match="damaged snapshot"):
        State(tmp_path / "s.db", "bundle").read()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which nobody can write to")
def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(edgemem.StateError, match=r"/proc/edgemem\.db"):
        State("/proc/edgemem.db", "bundle")


def test_a_full_disk_keeps_the_last_commit(tmp_path):
    state = State(tmp_path / "s.db", "bundle")
    state.write(snapshot())
    ((pages,),) = state.rows("PRAGMA page_count")
    state.rows(f"PRAGMA max_page_count = {pages}")
    large = Snapshot({"a": np.zeros(1 << 16, np.float32)}, {})
    with pytest.raises(edgemem.StateError, match="full"):
        state.write(large)
    assert state.read().counters == {"steps": 1}


def test_killed_at_any_moment_it_continues_with_identical_outputs(tmp_path, digits_stream):
    x, _ = digits_stream
    path, frames = tmp_path / "s.db", 0
    for commits, delay in ((0, 0.0), (2, 0.001), (0, 0.003), (5, 0.01)):
        process = subprocess.Popen(
            [sys.executable, "-c", STEPPER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        for _ in range(commits):
            assert process.stdout.readline() == "committed\n"
        time.sleep(delay)  # into what comes next
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with edgemem.open(BUNDLE, path, threads=1) as runtime:
            assert runtime.counters["frames"] >= frames
            frames = runtime.counters["frames"]
            assert frames % 5 == 0
    assert frames >= 7 * 5
    uninterrupted = edgemem.open(BUNDLE, threads=1)
    while uninterrupted.counters["frames"] < frames:
        uninterrupted.step(x[uninterrupted.counters["frames"] :][:5])
    with edgemem.open(BUNDLE, path, threads=1) as reopened:
        for start in range(0, 200, 7):
            expected = uninterrupted.step(x[start : start + 7]).logits
            np.testing.assert_array_equal(reopened.step(x[start : start + 7]).logits, expected)
