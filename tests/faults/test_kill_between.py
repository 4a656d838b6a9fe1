"""Kill -9 in the middle of one long context: what was learnt is there, but for the last steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from teachable import write_bundle

from edgemem.runtime.persistence.commits import MOST_STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]
# Forks devices from one process that has loaded everything. Each takes so many steps in one
# context, says so, and waits for the end; what it learnt is read by opening its state, as after a
# power cut.
DRIVER = """
import json, os, signal, sys
import edgemem
from teachable import stream_of

bundle, folder, contexts = sys.argv[1], sys.argv[2], sys.argv[4] == "warm"


def batch(number):
    return stream_of([0, 1], 16, number)[0]


def device(path, steps, pipe):
    runtime = edgemem.open(bundle, path, threads=1, options=edgemem.Options(contexts=contexts))
    for number in range(steps):
        runtime.step(batch(number))
    assert runtime.counters["steps"] == steps
    os.write(pipe, b"done")
    signal.pause()


found = []
for number, steps in enumerate(json.loads(sys.argv[3])):
    path = f"{folder}/{number}.db"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            device(path, steps, writer)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 4) == b"done", "the device ended by itself"
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with edgemem.open(bundle, path, threads=1, options=edgemem.Options(contexts=contexts)) as kept:
        found.append(steps - kept.counters["steps"])
        assert kept.step(batch(0)).context == ("context-1" if contexts else "generic")
print(json.dumps(found))
"""


@pytest.fixture
def losses(tmp_path):
    """How many steps a kill after so many costs."""

    def run(steps, kind, setting=""):
        bundle = write_bundle(tmp_path / "t.edgemem")
        helpers = str(Path(__file__).parents[1] / "helpers")
        path = os.pathsep.join(filter(None, (helpers, os.environ.get("PYTHONPATH"))))
        finished = subprocess.run(
            [sys.executable, "-c", setting + DRIVER, bundle, tmp_path, json.dumps(steps), kind],
            capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run


@pytest.mark.parametrize("kind", ["warm", "cold"])
def test_a_power_cut_costs_fewer_than_64_steps(losses, kind):
    steps = [MOST_STEPS - 1, MOST_STEPS, 2 * MOST_STEPS - 1, 2 * MOST_STEPS + 15, 300, 1000]
    lost = losses(steps, kind)
    print(f"{kind}: of {steps} steps in one context, a kill cost {lost}")
    assert len(lost) == len(steps) and all(0 <= cost < MOST_STEPS for cost in lost)
    if kind == "cold":  # with contexts the first one is committed sooner
        assert lost == [count % MOST_STEPS for count in steps]


def test_with_no_seconds_to_lose_a_power_cut_costs_nothing(losses):
    setting = "import edgemem.runtime.persistence.commits as commits\ncommits.MOST_SECONDS = 0\n"
    assert losses([1, 7, 100], "cold", setting) == [0, 0, 0]
