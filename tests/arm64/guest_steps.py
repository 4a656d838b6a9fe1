"""On the device: open a state, check that it is whole, then step and commit until killed.

guest_steps.py STATE ACKNOWLEDGED END: at least so many frames must be in the state; END frames end
it. Every commit is followed by a line: frames so far, and a digest of the batch's logits.
"""

import hashlib
import sys
from contextlib import closing

import numpy as np

import edgemem
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.demo import BUNDLE, STREAM
from edgemem.state.store import State

BATCH = 16

path, acknowledged, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if acknowledged:
    with closing(State(path, None)) as state:
        assert not (damage := WrittenBlocks(state).verify()), damage
        frames = state.read().counters["frames"]
        # One commit may have been done whose line was killed.
        assert acknowledged <= frames <= acknowledged + BATCH, (acknowledged, frames)
print("whole", flush=True)
with np.load(STREAM) as data:
    x = data["x"]
with edgemem.open(BUNDLE, path, threads=1) as runtime:
    for first in range(runtime.counters["frames"], end, BATCH):
        logits = runtime.step(x[first : first + BATCH]).logits
        runtime.flush()
        digest = hashlib.sha256(logits.tobytes()).hexdigest()
        print(runtime.counters["frames"], digest, flush=True)
