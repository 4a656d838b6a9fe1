"""Kill -9 at any moment: what was acknowledged is there, whole commits only, one call reopens."""

import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]
KILLS = 300
# Forks writers from one process that has loaded everything; kills each at a random moment.
DRIVER = """
import os, random, signal, tempfile, time, traceback


def write_on(path, pipe):
    state = State(path, "bundle")
    snapshot = state.read()
    number = snapshot.counters["steps"] if snapshot else 0
    while True:
        number += 1
        commit(state, number)
        if number % 40 == 0:
            state.compact()
        os.write(pipe, b"%d\\n" % number)
        if number % 17 == 0:
            state.close()
            state = State(path, "bundle")


def check(path, acknowledged):
    state = State(path, "bundle")
    blocks = WrittenBlocks(state)
    assert not (damage := blocks.verify()), damage
    snapshot = state.read()
    steps = snapshot.counters["steps"] if snapshot else 0
    # One commit may have been done whose acknowledgement was killed.
    assert acknowledged <= steps <= acknowledged + 1, (acknowledged, steps)
    newest = f"context {steps % 7}"
    if steps and steps % 50:
        record, arrays = blocks.read(newest)
        if steps % 11:
            assert record.provenance.steps == record.count == steps
        assert (arrays["w"] == record.provenance.steps).all()
    state.close()
    return steps


path, kills, random_numbers, steps = sys.argv[1], int(sys.argv[2]), random.Random(0), 0
with tempfile.TemporaryDirectory() as folder:
    for number in (1, 2):
        start = time.monotonic()
        state = State(folder + "/s.db", "bundle")
        commit(state, number)
        state.close()
    took = time.monotonic() - start  # by which kills are spread within the next commits
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            write_on(path, writer)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(writer)
    said = b"".join(os.read(reader, 1 << 16) for _ in range(random_numbers.randrange(4)))
    time.sleep(random_numbers.expovariate(1 / took))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    while chunk := os.read(reader, 1 << 16):
        said += chunk
    os.close(reader)
    lines = said.split()
    steps = check(path, int(lines[-1]) if lines else steps)
print(steps)
"""


def test_killed_at_300_random_moments_nothing_acknowledged_is_lost(tmp_path, run):
    finished = run(DRIVER, tmp_path / "s.db", KILLS)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > KILLS  # it did write: more than one was heard of a kill
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]
