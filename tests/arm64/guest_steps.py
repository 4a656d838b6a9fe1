"""On the device: open a state, check that it is whole, and step and commit until killed.

guest_steps.py STATE ACKNOWLEDGED: at least so many steps must be in the state.
"""

import sys
from contextlib import closing

import numpy as np

import edgemem
from edgemem.bank.written import WrittenBlocks
from edgemem.demo import BUNDLE, STREAM
from edgemem.state import State

path, acknowledged = sys.argv[1], int(sys.argv[2])
if acknowledged:
    with closing(State(path, None)) as state:
        blocks = WrittenBlocks(state)
        assert not (damage := blocks.verify()), damage
        snapshot = state.read()
        steps = snapshot.counters["steps"]
        assert steps >= acknowledged, (steps, acknowledged)
        assert all(np.isfinite(array).all() for array in snapshot.arrays.values())
print("whole", flush=True)
with np.load(STREAM) as data:
    frames = data["x"]
with edgemem.open(BUNDLE, path, threads=1) as runtime:
    assert runtime.counters["steps"] >= acknowledged, runtime.counters
    start = 16 * runtime.counters["steps"]
    for first in range(start, len(frames), 16):
        runtime.step(frames[first : first + 16])
        runtime.flush()
        print(runtime.counters["steps"], flush=True)
