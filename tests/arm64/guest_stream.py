"""On the device: a short run that waits, after its imports, until its memory has been limited.

guest_stream.py FRAMES
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401 - all libraries before memory is measured

import edgemem
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.tools.replay import replay
from edgemem.runtime.tools.stream import Stream

TOO_MUCH = 300_000_000

frames = int(sys.argv[1])
print("imported", flush=True)
sys.stdin.readline()
try:
    np.empty(TOO_MUCH, np.uint8)
except MemoryError:
    print("refused", flush=True)
else:
    sys.exit("the limit on memory does not bite")
with tempfile.TemporaryDirectory() as name:
    short = Path(name) / "short.npz"
    with np.load(STREAM) as data:
        np.savez(short, **{name: data[name][:frames] for name in data})
    with edgemem.open(BUNDLE, Path(name) / "device.db", threads=1) as runtime:
        report = replay(runtime, Stream(short), chunk=16)
print(report.error, report.frozen_error, flush=True)
