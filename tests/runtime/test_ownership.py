"""Several threads on one runtime, copies of one, and runtimes that nobody holds any more."""

import copy
import gc
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from context_runs import BATCH, opened

import edgemem
from edgemem.demo import BUNDLE
from edgemem.runtime import class_calls, ownership
from edgemem.runtime.frames import checked
from edgemem.runtime.step.graphs import Graphs
from edgemem.state.store import State
from edgemem.testing import wait_for_step

THREADS = 6


def kept(path):
    with closing(State(path, None, read_only=True)) as state:
        snapshot = state.read()
    return 0 if snapshot is None else snapshot.counters["steps"]


@pytest.fixture
def hasty():
    """Threads give way to others far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def calls(x, seed, count=30):
    """Frames of calls of different sizes."""
    sizes = np.random.default_rng(seed).integers(1, 2 * BATCH, count)
    starts = np.random.default_rng(seed + 1).integers(0, len(x) - 2 * BATCH, count)
    return [x[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@pytest.mark.parametrize("options", [{}, {"adapt": False}, {"contexts": False}], ids=str)
def test_answers_of_threads_are_those_of_the_same_calls_one_by_one(
    digits_stream, hasty, options, monkeypatch
):
    given, order, answers = calls(digits_stream[0], 0), [], {}
    with opened(**options) as runtime, monkeypatch.context() as patch:

        def noted(frames, spec, inputs):  # the first thing that a call does in its turn
            order.append(next(k for k, known in enumerate(given) if known is frames))
            return checked(frames, spec, inputs)

        patch.setattr(class_calls, "checked", noted)

        def work(first):
            for k in range(first, len(given), THREADS):
                answers[k] = runtime.step(given[k])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        counters = dict(runtime.counters)
    assert sorted(order) == list(range(len(given)))
    with opened(**options) as alone:
        for k in order:
            expected = alone.step(given[k])
            np.testing.assert_array_equal(answers[k].logits, expected.logits)
            assert answers[k].context == expected.context
        assert alone.counters == counters


def test_every_call_may_come_from_any_thread(tmp_path, digits_stream, hasty):
    path, failed = tmp_path / "s.db", []
    with opened(path) as runtime:
        ways = [
            lambda x: runtime.step(x),
            lambda x: runtime.predict(x),
            lambda x: runtime.predict(x, frozen=True),
            lambda x: runtime.flush(),
            lambda x: runtime.rollback("commit"),
            lambda x: runtime.classes(),
        ]

        def work(way):
            for frames in calls(digits_stream[0], 3, 12):
                result = way(frames)
                if isinstance(result, edgemem.Result) and len(result.labels) != len(frames):
                    failed.append(len(result.labels))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, ways))
    assert not failed
    with opened(path) as again:
        assert len(again.step(digits_stream[0][:5]).labels) == 5


def test_an_error_in_one_thread_ends_its_turn_and_nothing_else(digits_stream):
    x, refused = digits_stream[0], []
    with opened() as runtime, opened() as alone:

        def fail():
            for bad in (x[:1, :, :4], np.zeros((0, 1, 8, 8)), "frames"):
                try:
                    runtime.step(bad)
                except edgemem.InputError as error:
                    refused.append(error)

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        assert len(refused) == 3
        np.testing.assert_array_equal(runtime.step(x[:40]).logits, alone.step(x[:40]).logits)


def test_closing_waits_for_its_turn_and_later_calls_are_told(tmp_path, digits_stream):
    path, told = tmp_path / "s.db", []
    runtime = opened(path, contexts=False)
    runtime.step(digits_stream[0][:BATCH])
    started = threading.Barrier(THREADS + 1)

    def work():
        started.wait()
        try:
            while True:
                runtime.step(digits_stream[0][:BATCH])
        except edgemem.InputError as error:
            told.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    started.wait()
    runtime.close()
    for thread in threads:
        thread.join()
    assert told == ["runtime: is closed. Open the bundle again."] * THREADS
    assert kept(path) == runtime.counters["steps"]


COPIES = (copy.copy, copy.deepcopy, pickle.dumps, lambda runtime: pickle.dumps({"a": [runtime]}))


@pytest.mark.parametrize("copied", COPIES)
def test_a_runtime_has_no_copies(tmp_path, digits_stream, copied):
    with opened(tmp_path / "s.db") as runtime:
        with pytest.raises(
            edgemem.InputError, match=r"cannot be copied or pickled.*Open the bundle"
        ):
            copied(runtime)
        result = runtime.step(digits_stream[0][:BATCH])
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.logits, result.logits)


@pytest.fixture
def no_collection():
    """Only the last reference ends a thing, as long as nothing else is asked for."""
    gc.disable()
    yield
    gc.enable()


def test_a_lost_runtime_commits_and_gives_its_state_back(tmp_path, digits_stream, no_collection):
    path = tmp_path / "s.db"
    runtime = opened(path, BUNDLE)
    runtime.step(digits_stream[0][: 3 * BATCH])
    steps = runtime.counters["steps"]
    del runtime
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]
    assert steps > 0 and kept(path) == steps


def test_one_that_is_lost_in_a_cycle_is_found_when_its_state_is_opened(
    tmp_path, digits_stream, no_collection
):
    path = tmp_path / "s.db"

    def cell():
        held = [opened(path, contexts=False)]
        held.append(held)
        held[0].step(digits_stream[0][: 3 * BATCH])
        raise RuntimeError("as cells do")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            cell()
    with opened(path, contexts=False) as runtime:
        assert runtime.counters["steps"] == 6


def test_one_that_is_still_held_is_not_taken_away(tmp_path, digits_stream):
    first = opened(tmp_path / "s.db")
    first.step(digits_stream[0][:BATCH])
    with pytest.raises(edgemem.StateError, match="open for writing already"):
        opened(tmp_path / "s.db")
    first.close()


def test_one_that_is_lost_on_a_full_disk_is_told_in_the_log(
    tmp_path, digits_stream, monkeypatch, caplog
):
    def refused(self, snapshot):
        raise edgemem.StateError("s.db", "is on a full disk", "Make room")

    runtime = opened(tmp_path / "s.db")
    runtime.step(digits_stream[0][:BATCH])
    with monkeypatch.context() as patch:
        patch.setattr(State, "write", refused)
        del runtime
        gc.collect()
    assert "what was learnt since the last commit is lost: s.db: is on a full disk" in caplog.text
    with opened(tmp_path / "s.db") as again:
        assert again.counters["steps"] == 0


def test_one_that_was_closed_is_not_closed_again(tmp_path, digits_stream):
    runtime = opened(tmp_path / "s.db")
    runtime.step(digits_stream[0][:BATCH])
    runtime.close()
    with opened(tmp_path / "s.db") as other:
        del runtime
        gc.collect()
        other.step(digits_stream[0][:BATCH])
        other.flush()
    assert kept(tmp_path / "s.db") == 2


def test_a_step_in_the_background_does_not_hold_up_the_end(tmp_path, digits_stream, monkeypatch):
    began, may_end, adapt = threading.Event(), threading.Event(), Graphs.adapt
    runtime = opened(tmp_path / "s.db", background=True, contexts=False)

    def slow(*arguments):
        began.set()
        may_end.wait()
        return adapt(*arguments)

    monkeypatch.setattr(Graphs, "adapt", slow)
    runtime.step(digits_stream[0][: 2 * BATCH])
    assert began.wait(60) and runtime.counters["steps"] == 0
    del runtime
    gc.collect()  # does not wait for what cannot end
    try:
        with opened(tmp_path / "s.db", contexts=False) as again:
            assert again.counters["steps"] == 0 and again.counters["frames"] == 2 * BATCH
    finally:
        may_end.set()


FORGETFUL = """
import sys
import numpy as np
import edgemem
from edgemem.demo import BUNDLE
from edgemem.runtime import ownership
{setting}
options = edgemem.Options(background={background})
runtime = edgemem.open(BUNDLE, sys.argv[1], threads=1, options=options)
for _ in range(5):
    runtime.step(np.random.default_rng(0).random((16, 1, 8, 8), np.float32))
print(runtime.counters["steps"], flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("setting", "end", "code"),
    [
        ("", "", 0),
        ("", "sys.exit(3)", 3),
        ("", "raise RuntimeError", 1),
        ("import gc; gc.disable(); held = []; held.append(held)", "held.append(runtime)", 0),
        ("import threading", "threading.Thread(target=lambda: runtime.predict).start()", 0),
    ],
    ids=["end", "exit", "exception", "cycle", "thread"],
)
@pytest.mark.parametrize("background", [False, True])
def test_the_end_of_the_interpreter_closes_a_runtime(tmp_path, setting, end, code, background):
    script = FORGETFUL.format(setting=setting, end=end, background=background)
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s.db")], capture_output=True, text=True
    )
    assert finished.returncode == code, finished.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]
    steps = int(finished.stdout)
    assert steps <= kept(tmp_path / "s.db") <= 5 and (steps == 5 or background)


STEPPING = """
import sys, threading
import numpy as np
import edgemem
from edgemem.demo import BUNDLE
from edgemem.runtime import ownership
runtime = edgemem.open(BUNDLE, sys.argv[1], threads=1)
frames = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
enough = threading.Event()

def work():
    flushes = 0
    try:
        while True:
            runtime.step(frames)
            runtime.flush()
            print(runtime.counters["steps"], flush=True)
            flushes += 1
            if flushes == 5:
                enough.set()
    except edgemem.InputError:  # it is closed
        pass

threading.Thread(target=work, daemon=True).start()
enough.wait()
"""


def test_the_end_of_the_interpreter_waits_for_a_thread_that_still_steps(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.db"
        finished = subprocess.run(
            [sys.executable, "-c", STEPPING, str(path)], capture_output=True, text=True
        )
        assert (finished.returncode, finished.stderr) == (0, "")
        assert kept(path) >= int(finished.stdout.split()[-1]) >= 5


def test_an_interrupt_at_any_line_of_a_turn_gives_it_back_to_other_threads(digits_stream):
    x = digits_stream[0][:3]

    def interrupted(line):
        """Whether predicting met an interrupt at this line of the module."""
        left, seen = line, set()

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename != ownership.__file__:
                return None
            # A `with` is traced again at its end, where Python takes no signal.
            if event == "line" and (frame, frame.f_lineno) not in seen:
                seen.add((frame, frame.f_lineno))
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            runtime.predict(x)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    with opened() as runtime:
        line = 1
        while interrupted(line):
            other = threading.Thread(target=runtime.predict, args=(x,), daemon=True)
            other.start()
            other.join(600)
            assert not other.is_alive()
            line += 1
    assert line > 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("way", ["flush", "close"])
def test_a_signal_handler_gets_an_error_in_the_midst_of_a_commit(
    tmp_path, digits_stream, monkeypatch, way
):
    path, told, write = tmp_path / "s.db", [], State.write

    def handler(*_):
        try:
            getattr(runtime, way)()
        except edgemem.StateError as error:
            told.append(str(error))

    def in_the_midst(state, snapshot):
        signal.raise_signal(signal.SIGUSR1)
        write(state, snapshot)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with opened(path) as runtime:
            runtime.step(digits_stream[0][:BATCH])
            with monkeypatch.context() as patch:
                patch.setattr(State, "write", in_the_midst)
                runtime.flush()
            assert len(told) == 1 and "a signal came in the midst of a commit" in told[0]
            assert kept(path) == 1
            runtime.step(digits_stream[0][:BATCH])
            handler()  # the remedy: once the other call has returned
            assert len(told) == 1 and kept(path) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_runtime_without_a_state_file_closes(digits_stream):
    runtime = opened()
    runtime.step(digits_stream[0][: BATCH + 3])
    runtime.close()
    with pytest.raises(edgemem.InputError, match="is closed"):
        runtime.step(digits_stream[0][:BATCH])


def test_a_lost_step_in_the_background_takes_nothing_else_with_it(
    tmp_path, digits_stream, monkeypatch, caplog
):
    runtime = opened(tmp_path / "s.db", background=True, contexts=False)

    def broken(*_):
        raise edgemem.BundleError("step", "failed", "Export again")

    monkeypatch.setattr(Graphs, "adapt", broken)
    runtime.step(digits_stream[0][:BATCH])
    wait_for_step(runtime)  # until it has failed
    del runtime
    gc.collect()
    assert "a step in the background failed: step: failed" in caplog.text
    with opened(tmp_path / "s.db", contexts=False) as again:
        assert again.counters["frames"] == BATCH
