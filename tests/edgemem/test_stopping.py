"""Signals end a program between two steps, and what was learnt is in the file."""

import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE
from edgemem.state.store import State
from edgemem.stopping import stopping
from edgemem.testing import ring_of

EXAMPLES = Path(__file__).parents[2] / "examples"
ENDINGS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
windows = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.mark.parametrize(("number", "ending"), ENDINGS)
def test_a_signal_ends_the_program_at_once_where_nothing_is_held_up(number, ending):
    with pytest.raises(ending) as ended, stopping():
        signal.raise_signal(number)
        pytest.fail("it went on")
    assert ending is KeyboardInterrupt or ended.value.code == 143


@pytest.mark.parametrize(("number", "ending"), ENDINGS)
def test_it_is_held_up_to_the_end_of_a_step_or_a_moment_that_will_do(number, ending):
    done = []
    with pytest.raises(ending), stopping() as stop, stop.later():
        stop.now()
        signal.raise_signal(number)
        done.append("step")
    with pytest.raises(ending), stopping() as stop, stop.later():
        signal.raise_signal(number)
        done.append("call")
        stop.now()
        done.append("too far")
    assert done == ["step", "call"]


def test_a_second_signal_is_not_held_up():
    with pytest.raises(SystemExit), stopping() as stop, stop.later():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")


def test_an_error_of_the_step_comes_first():
    with pytest.raises(ValueError, match="step"), stopping() as stop, stop.later():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("step")


def test_handlers_come_back():
    before = [signal.getsignal(number) for number, _ in ENDINGS]
    with suppress(SystemExit), stopping():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number, _ in ENDINGS] == before


@pytest.fixture
def endless(tmp_path, digits_stream):
    """A stream that no test waits for."""
    x, y = digits_stream
    np.savez(tmp_path / "long.npz", x=np.concatenate([x] * 60), y=np.concatenate([y] * 60))
    return tmp_path / "long.npz"


def steps_in(path):
    """Steps that are in the file at this moment; 0 before the first commit."""
    try:
        with closing(State(path, None, read_only=True)) as state:
            snapshot = state.read()
    except edgemem.StateError:
        return 0
    return 0 if snapshot is None else snapshot.counters["steps"]


def ended(command, state, number, **options):
    """Send a signal once the file holds something; exit code, errors, steps before and after."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--state", state],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    try:
        while not (before := steps_in(state)) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate()
    finally:
        process.kill()
    return process.returncode, errors, before, steps_in(state)


@windows
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_ends_with_everything_written(tmp_path, endless, number, code):
    run = ["-c", "from edgemem.cli import main; main()", "run", BUNDLE, "--input", endless]
    found, errors, before, after = ended([*run, "--threads", "1"], tmp_path / "s.db", number)
    assert found == code, errors
    assert "Traceback" not in errors
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        assert runtime.counters["steps"] == after >= before > 0
        # Everything: not a commit that leaves recent frames out.
        assert ring_of(runtime).count == runtime.bundle.manifest.frames.batch
    assert sorted(f.name for f in tmp_path.iterdir()) == ["long.npz", "s.db"]


LONG = {
    "sensors/activities.py": ["--visits", "1000", "--json"],
    "keyword_spotting/keywords.py": ["--visits", "1000", "--json"],
    "raspberry_pi/camera.py": ["--input", "demo", "--json"],
}


@windows
@pytest.mark.slow
@pytest.mark.parametrize("program", LONG)
def test_examples_end_with_everything_written(tmp_path, program):
    command = [EXAMPLES / program, *LONG[program]]
    found, errors, before, after = ended(command, tmp_path / "s.db", signal.SIGTERM, cwd=tmp_path)
    assert (found, "Traceback" in errors) == (143, False), errors
    assert after >= before > 0
    assert not (tmp_path / "s.db-wal").exists() and not (tmp_path / "s.db-lock").exists()


@windows
def test_the_example_that_teaches_ends_so_too(tmp_path):
    # It ends by itself within a second, so the signal comes as soon as it has the state file.
    state = tmp_path / "s.db"
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "new_class/teach.py", "--state", state, "--json"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not Path(f"{state}-lock").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode in (143, 0) and "Traceback" not in errors, errors
    edgemem.open(EXAMPLES / "new_class/digits.edgemem", state, threads=1).close()
