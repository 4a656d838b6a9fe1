"""Commits that were promised and are not there any more: whoever opens the state is told."""

import shutil
from contextlib import closing

from teachable import stream_of, write_bundle

import edgemem
from edgemem.state.store import State


def opened(bundle, path):
    return edgemem.open(bundle, path, threads=1, provider="cpu")


def batch(number):
    return stream_of([0, 1], 16, number, 0.4)[0]


def test_a_damaged_log_is_told_by_the_runtime(tmp_path):
    bundle, path, copy = write_bundle(tmp_path / "t.edgemem"), tmp_path / "s.db", tmp_path / "copy"
    with opened(bundle, path) as runtime:
        runtime.step(batch(0))
    copy.mkdir()
    with opened(bundle, path) as runtime, closing(State(path, None, read_only=True)) as reader:
        reader.rows("BEGIN")  # somebody reads, so commits stay in the log
        reader.rows("SELECT count(*) FROM part")
        for number in range(1, 5):
            runtime.step(batch(number))
            runtime.flush()
        for file in tmp_path.glob("s.db*"):
            if not file.name.endswith(("-shm", "-lock")):
                shutil.copy(file, copy / file.name)
        reader.rows("ROLLBACK")
    log = bytearray((copy / "s.db-wal").read_bytes())
    log[100] ^= 1  # of its first page
    (copy / "s.db-wal").write_bytes(log)
    with opened(bundle, copy / "s.db") as runtime:
        assert runtime.counters["steps"] == 1
        told = [e.message for e in runtime.step(batch(5)).events if e.kind == "damaged"]
    assert len(told) == 1 and "has lost its last 4 commits" in told[0]
    with opened(bundle, copy / "s.db") as runtime:  # once
        assert not [e for e in runtime.step(batch(6)).events if e.kind == "damaged"]
