"""Kill -9 while classes are learnt and forgotten: what was acknowledged is there, whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from teachable import write_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]
KILLS = 60
# Forks devices from one process that has loaded everything; kills each at a random moment. Three
# calls teach "cat" and "left", the fourth forgets "cat": frames of both tell which call was the
# last.
DRIVER = """
import os, random, signal, sys, time, traceback

import numpy as np
import edgemem
from teachable import frames_of, stream_of
from edgemem.testing import session_of

LEFT, CAT = 0, 2


def live(bundle, path, pipe, away):
    with edgemem.open(bundle, path, threads=1) as runtime:
        done = calls(runtime)
        os.write(pipe, b"%d\\n" % done)  # it is open
        while True:
            done += 1
            runtime.step(stream_of([0, 1], 16, done, (away + done) % 2)[0])
            if done % 4:
                frames = np.concatenate([frames_of(LEFT, 1, done), frames_of(CAT, 1, done)])
                runtime.learn(frames, ["left", "cat"])
            else:
                runtime.forget_class("cat")
            os.write(pipe, b"%d\\n" % done)


def calls(runtime):
    frames = {info.name: info.frames for info in runtime.classes()}
    left = frames["left"]
    return left + (left - 1) // 3 if "cat" in frames else left // 3 * 4


def check(bundle, path, acknowledged):
    with edgemem.open(bundle, path, threads=1) as runtime:
        done = calls(runtime)
        # One call may have been done whose acknowledgement was killed.
        assert acknowledged <= done <= acknowledged + 1, (acknowledged, done)
        taught = session_of(runtime).contexts.root["prototypes.frames"]
        frames = {info.index: info.frames for info in runtime.classes()}
        for number in (LEFT, CAT):  # half is every context's
            assert taught[number] == 0.5 * frames.get(number, 0), (taught, frames)
        rows = session_of(runtime).block["prototypes.sums"].any(1)
        assert rows[CAT] == (CAT in frames) == (done % 4 > 0), (rows, frames, done)
    return done


bundle, path, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
random_numbers, done = random.Random(0), 0
for number in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            live(bundle, path, writer, number)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(writer)
    start = time.monotonic()
    heard = os.read(reader, 1 << 16)
    opening = time.monotonic() - start  # by which kills are spread within the next calls
    heard += b"".join(os.read(reader, 1 << 16) for _ in range(random_numbers.randrange(3)))
    time.sleep(random_numbers.expovariate(1 / (2 * opening)))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the device ended by itself"
    while chunk := os.read(reader, 1 << 16):
        heard += chunk
    os.close(reader)
    lines = heard.split()
    done = check(bundle, path, int(lines[-1]) if lines else done)
print(done)
"""


def test_killed_at_60_random_moments_classes_are_those_before_or_after(tmp_path):
    bundle = write_bundle(tmp_path / "t.edgemem")
    helpers = str(Path(__file__).parents[1] / "helpers")
    path = os.pathsep.join(filter(None, (helpers, os.environ.get("PYTHONPATH"))))
    finished = subprocess.run(
        [sys.executable, "-c", DRIVER, str(bundle), str(tmp_path / "s.db"), str(KILLS)],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > KILLS // 4  # it did learn: one call was heard of a kill
