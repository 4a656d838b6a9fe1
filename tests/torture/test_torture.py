"""A few faults of each kind that `make torture` makes, and that its judge sees what is wrong."""

import json
import random
import shutil
import sys
from pathlib import Path

import interrupts
import kills
import long_run
import power_cuts
import pytest
import refusals
import run
from bench import Bench
from counts import Row
from device import Held, Said, batch, holds, judged, lesson, opened
from disk import ALL, NOTHING, SIZES, SOME, Disk, Event
from interrupts import Interrupt
from teachable import write_bundle

from edgemem.runtime.persistence.commits import Commits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, LD_PRELOAD and tmpfs")
compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
# An interrupt may come in a finaliser, too.
in_finalisers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# Acknowledges what the disk may lose.
CARELESS = """
import edgemem.state.sqlite_file as state_file
prepare = state_file.StateFile._prepare_to_write
def careless(self):
    prepare(self)
    self._database.execute("PRAGMA synchronous = OFF")
state_file.StateFile._prepare_to_write = careless
"""
# Tells nobody that a commit failed.
SILENT = """
from edgemem import StateError
from edgemem.runtime.persistence.commits import Commits
commit = Commits.write
def silent(self, session, *values):
    try:
        return commit(self, session, *values)
    except StateError:
        return session, ()
Commits.write = silent
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("torture") / "t.edgemem")


@pytest.fixture(autouse=True)
def evidence(tmp_path, monkeypatch):
    monkeypatch.setattr("counts.EVIDENCE", tmp_path / "evidence")


@pytest.fixture
def count():
    """Counts the cases."""
    told = []
    yield lambda: told.append(1)
    assert told


def failures(rows):
    return [failure for row in rows for failure in row.failures]


def test_kills_lose_nothing(bundle, count):
    rows = kills.run(bundle, seed=1, kills=6, told=count)
    assert failures(rows) == []
    assert len(rows) == len(kills.LIVES) and all(row.cases for row in rows)


@compiled
def test_power_cuts_lose_nothing(bundle, count):
    rows = power_cuts.run(bundle, seed=1, cuts=8, told=count)
    assert failures(rows) == []
    assert all(row.old and row.new for row in rows)


@compiled
@pytest.mark.slow
def test_power_cuts_at_every_change_that_makes_a_file(bundle, count):
    assert failures(power_cuts.run(bundle, seed=1, cuts=100, told=count)) == []


@compiled
@pytest.mark.slow
def test_commits_that_are_not_synced_are_missed(bundle, count):
    rows = {row.fault: row for row in power_cuts.run(bundle, 1, 8, count, CARELESS)}
    assert not rows["power cut, all kept"].failures
    for kept in (NOTHING, SIZES, SOME):
        assert rows[f"power cut, {kept} kept"].failures


@pytest.mark.slow
@in_finalisers
def test_interrupts_leave_a_whole_file(bundle, count):
    calls = ("flush", "close")
    rows = interrupts.run(bundle, seed=1, most=5, told=count, calls=calls)
    assert failures(rows) == []
    assert all(row.cases for row in rows)


@in_finalisers
def test_lines_after_a_commit_are_interrupted_too(bundle, tmp_path):
    bench = Bench(bundle, tmp_path, KeyboardInterrupt)
    counting = Interrupt(bench)
    bench.faulted("flush", counting)
    assert {"commits.py", "keeper.py"} <= {Path(place.file).name for place in counting.places}
    last = max(counting.places, key=lambda place: place.said)
    interrupt = Interrupt(bench, last, counting.places[last])
    assert bench.faulted("flush", interrupt)[0] == ("new", [], 0)
    assert interrupt.met


@in_finalisers
@pytest.mark.slow
def test_a_close_that_was_interrupted_anywhere_is_ended_by_the_next(bundle, tmp_path):
    bench = Bench(bundle, tmp_path, KeyboardInterrupt)
    counting = Interrupt(bench)
    bench.faulted("close", counting)
    said = max(place.said for place in counting.places)
    places = [place for place in counting.places if place.said == said]  # all is written
    assert len(places) > 40
    for place in places:
        verdict, _ = bench.faulted("close", Interrupt(bench, place, 1))
        assert verdict.wrong == [], place


def test_a_runtime_that_does_not_go_on_is_noticed(bundle, tmp_path, monkeypatch):
    commit = Commits.write

    def breaks(self, *values, **options):
        try:
            return commit(self, *values, **options)
        except KeyboardInterrupt:
            self._state.close()
            raise

    monkeypatch.setattr(Commits, "write", breaks)
    bench = Bench(bundle, tmp_path, KeyboardInterrupt)
    counting = Interrupt(bench)
    assert not bench.faulted("flush", counting)[0].wrong
    inside = next(place for place in counting.places if place.file.endswith("block_table.py"))
    verdict, files = bench.faulted("flush", Interrupt(bench, inside, 1))
    assert any("is closed" in text for text in verdict.wrong), verdict
    assert files
    assert not bench.faulted("flush", Interrupt(bench))[0].wrong  # with another file it goes on


@pytest.mark.slow
@compiled
def test_disks_that_refuse_are_told_of_and_space_helps(bundle, count):
    rows = refusals.run(bundle, seed=1, most=3, told=count, calls=("flush", "open"))
    assert failures(rows) == []
    assert all(row.cases or row.skipped for row in rows)


@compiled
@pytest.mark.slow
def test_commits_that_fail_without_a_word_are_noticed(bundle, count):
    rows = refusals.run(bundle, 1, 5, count, ("flush",), SILENT)
    assert rows[0].failures and rows[1].failures


def test_a_judge_compares_with_what_was_said(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        runtime.step(batch(0))
        runtime.learn(*lesson(0))
    found = holds(path)
    assert judged(path, bundle, Said(found), run=False) == ("old", [], 0)
    said = Said(Held(0, "earlier"))
    said.say("intend", *found)
    assert judged(path, bundle, said, run=False) == ("new", [], 0)
    said.say("taken", found.steps + 63)
    assert judged(path, bundle, said, run=False) == ("new", [], 63)
    said.say("taken", found.steps + 64)
    assert "steps were taken" in judged(path, bundle, said, run=False).wrong[0]
    wrong = judged(path, bundle, Said(Held(found.steps, "another")), run=False).wrong
    assert len(wrong) == 1 and "neither" in wrong[0]
    path.write_bytes(b"no state file at all")
    assert "StateError" in judged(path, bundle, Said(found)).wrong[0]


def test_a_failure_is_counted_with_what_makes_it_again(bundle, tmp_path):
    path, row = tmp_path / "s.db", Row("killed: test")
    opened(bundle, path).close()
    row.add(judged(path, bundle, Said(Held(3, "x"))), "kill 7 at seed 1", {"s.db": b"bytes"})
    assert row.cases == len(row.failures) == 1 and row.old == row.new == 0
    assert row.failures[0].startswith("kill 7 at seed 1: ")
    assert (tmp_path / "evidence/killed-test,-kill-7-at-seed-1/s.db").read_bytes() == b"bytes"


def disk_of(*events):
    disk = Disk()
    for event in events:
        disk.happen(Event(*event))
    return disk


def test_a_cut_takes_what_was_not_synced_and_nothing_else():
    chance = random.Random(0)
    opened_folder, opened_file = ("O", 1, 0, b"."), ("O", 2, 1, b"a")
    synced = [("W", 2, 0, b"x" * 1024), ("S", 2, 0, b""), ("S", 1, 0, b"")]
    later = [("W", 2, 512, b"y" * 1024), ("O", 3, 1, b"b"), ("W", 3, 0, b"z")]
    disk = disk_of(opened_folder, opened_file, *synced)
    for how in (ALL, NOTHING, SIZES, SOME):
        assert disk.after_cut(how, chance) == {"a": b"x" * 1024}
    disk = disk_of(opened_folder, opened_file, *synced, *later)
    assert disk.after_cut(NOTHING, chance) == {"a": b"x" * 1024}
    assert disk.after_cut(ALL, chance) == {"a": b"x" * 512 + b"y" * 1024, "b": b"z"}
    assert disk.after_cut(SIZES, chance) == {"a": b"x" * 1024 + bytes(512), "b": b"\0"}
    seen = {tuple(sorted(disk.after_cut(SOME, chance).items())) for _ in range(300)}
    contents = {dict(image)["a"] for image in seen}
    torn = b"x" * 512 + b"y" * 512
    assert {b"x" * 1024, torn, b"x" * 1024 + b"y" * 512, b"x" * 512 + b"y" * 1024} <= contents
    assert all(set(content[:512]) == set(b"x") for content in contents)
    assert {len(image) for image in seen} == {1, 2}


def test_names_that_were_removed_come_back_in_order():
    made = [("O", 1, 0, b"."), ("O", 2, 1, b"a"), ("O", 3, 1, b"b"), ("S", 1, 0, b"")]
    disk = disk_of(*made, ("U", 0, 0, b"a"), ("R", 0, 0, b"b\0c\0"))
    found = {tuple(disk.after_cut(SOME, random.Random(n))) for n in range(50)}
    assert found == {("a", "b"), ("b",), ("c",)}
    assert list(disk.after_cut(NOTHING, random.Random(0))) == ["a", "b"]


def test_growth_is_told_from_noise():
    noise = random.Random(0)
    flat = {name: [1e7 + noise.random() for _ in range(200)] for name in long_run.MOST_MORE}
    flat["descriptors"] = [7] * 200
    flat["steps"] = list(range(200))
    flat["memory in use"][:40] = [0] * 40  # what is there after a while is no trend
    flat["file"][120] *= 9  # nor is a peak
    assert long_run.trends(flat) == []
    for name, most in long_run.MOST_MORE.items():
        grows = [value + 2.2 * (most + 1) * n / 200 for n, value in enumerate(flat[name])]
        assert [name in text for text in long_run.trends(flat | {name: grows})] == [True]


@pytest.mark.slow
def test_a_leak_in_a_long_run_is_noticed(bundle, count):
    leak = "import device\nkept = []\nbatch = device.batch\n"
    leak += "device.batch = lambda *n: kept.append(bytes(10_000)) or batch(*n)\n"
    samples = long_run.sampled(bundle, 200, "openings", count, leak)
    assert any("memory in use" in text for text in long_run.trends(samples))


def test_a_run_is_sampled(bundle, count):
    samples = long_run.sampled(bundle, 60, "steps, ever new contexts", count)
    assert samples["steps"][-1] == 60
    assert all(len(values) == len(samples["steps"]) for values in samples.values())
    assert min(samples["file"]) > 0 and set(samples["descriptors"]) != {0}


@pytest.mark.parametrize("wrong", [[], ["line 3, commits.py:7: holds nothing"]])
def test_the_command_fails_if_anything_did(tmp_path, monkeypatch, capsys, wrong):
    def fake(told):
        told()
        skipped = Row("power cut", skipped="there is no C compiler")
        return [Row("killed: steps", 2, 2, losses=[3, 9], failures=wrong), skipped], {}

    monkeypatch.setattr(run, "kinds", lambda *_: {"kills": fake, "steps": None})
    monkeypatch.setattr("sys.argv", ["run.py", "--only", "kills", "--json", str(tmp_path / "a/t")])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr("logging.disable", lambda: None)
    assert run.main() == (1 if wrong else 0)
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert ["killed:", "steps", "2", "2", "0", "6", "/", "9", str(len(wrong))] in lines
    assert "SKIPPED, nothing was checked: power cut: there is no C compiler" in said.err
    assert all(f"FAILED killed: steps: {text}" in said.err for text in wrong)
    rows = json.loads((tmp_path / "a/t").read_text())["rows"]
    assert [row["failures"] for row in rows] == [wrong, []]


def test_the_command_knows_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--only", "kills,floods"])
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert "--only: floods is none of kills, power, interrupts, refusals, steps" in (
        capsys.readouterr().err
    )
