"""A process that forks with a runtime open: the child gets one error, and the parent goes on."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# Two threads: an engine's threads are not in the child, which must not wait for them.
PARENT = """
import gc, os, signal, sys
import numpy as np
import edgemem
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.demo import BUNDLE, STREAM
from edgemem.state.store import State
from edgemem.testing import state_of

with np.load(STREAM) as held:
    x = held["x"][held["context"] == "fog"]  # all of it is learnt from
path = sys.argv[1]
runtime = edgemem.open(BUNDLE, path, threads=2)
runtime.step(x[:32])
runtime.flush()
runtime.step(x[32:64])


def told(call):
    try:
        call()
    except edgemem.EdgeMemError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def child():
    signal.alarm(600)
    {child}


pid = os.fork()
if not pid:
    child()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
print("child", status, flush=True)
print("lock", os.path.exists(path + "-lock"), flush=True)
runtime.step(x[64:96])
runtime.flush()
print("parent", runtime.counters["steps"], flush=True)
{parent}
"""
USES = [
    "runtime.step(x[:16])", "runtime.predict(x[:16])", "runtime.predict(x[:16], frozen=True)",
    "runtime.flush()", "runtime.rollback('zero')", "runtime.learn(x[:1], [0])", "runtime.classes()",
    "runtime.forget_class('a')", "runtime.rename_class('a', 'b')",
]  # fmt: skip
# What runs at the end of an interpreter, up to where onnxruntime 1.32 hangs in every forked child
# that has imported it; children of `multiprocessing` end before, too.
LAST = "import atexit; atexit._run_exitfuncs(); os._exit(0)"
ENDS = {
    "exit": LAST,
    "at once": "os._exit(0)",
    "close": f"runtime.close(); {LAST}",
    "with": f"runtime.__exit__(None, None, None); {LAST}",
    "collect": f"global runtime; del runtime; gc.collect(); {LAST}",
    "multiprocessing": (
        "import multiprocessing; "
        "one = multiprocessing.get_context('fork').Process(target=told, args=(runtime.classes,)); "
        "one.start(); one.join(); os._exit(one.exitcode)"
    ),
}
KEPT = """
runtime.close()
state = State(path, None, read_only=True)
print("kept", state.read().counters["steps"], WrittenBlocks(state).verify(), flush=True)
"""


def run(tmp_path, child, parent="runtime.close()"):
    script = PARENT.replace("{child}", child).replace("{parent}", parent)
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "s.db")],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_every_call_in_a_child_is_one_clear_error(tmp_path):
    calls = "; ".join(f"print(told(lambda: {use}), flush=True)" for use in USES)
    lines = run(tmp_path, f"{calls}; os._exit(0)")
    for line in lines[: len(USES)]:
        assert line.startswith("InputError: runtime: was opened by process ")
        assert "of which this one is a fork. Open the bundle in the process that uses it" in line
    assert lines[len(USES) :][0] == "child 0"


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_child_takes_nothing_from_the_parent(tmp_path, end):
    lines = run(tmp_path, ENDS[end], KEPT)
    assert lines == ["child 0", "lock True", "parent 6", "kept 6 []"]
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]


def test_the_remedy_works_in_the_child(tmp_path):
    child = (
        "again = edgemem.open(BUNDLE, path + '.child', threads=2); again.step(x[:16]); "
        "again.close(); print(again.counters['steps'], flush=True); os._exit(0)"
    )
    assert run(tmp_path, child)[:2] == ["1", "child 0"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.db", "s.db.child"]


def test_a_child_cannot_write_to_the_state_of_its_parent(tmp_path):
    child = "print(told(lambda: state_of(runtime).rows('DELETE FROM snapshot')), flush=True)"
    lines = run(tmp_path, child, KEPT)
    assert "StateError" in lines[0] and "of which this one is a fork" in lines[0]
    assert lines[-1] == "kept 6 []"


def test_a_child_that_lives_on_does_not_keep_the_lock_of_a_parent_that_died(tmp_path):
    reading, writing = os.pipe()
    script = PARENT.split("pid = os.fork()", maxsplit=1)[0].replace("{child}", "pass") + (
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os.read(int(sys.argv[2]), 1)\n"
        "    os._exit(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "s.db"), str(reading)],
        pass_fds=[reading],
    )
    try:
        assert parent.wait(timeout=600) < 0
        second = "import sys, edgemem; from edgemem.demo import BUNDLE; " + (
            "runtime = edgemem.open(BUNDLE, sys.argv[1], threads=1); "
            "print(runtime.counters['steps']); runtime.close()"
        )
        opened = subprocess.run(
            [sys.executable, "-c", second, str(tmp_path / "s.db")], capture_output=True, text=True
        )
    finally:
        os.close(writing)
        os.close(reading)
    assert opened.returncode == 0, opened.stderr
    assert opened.stdout == "2\n"
