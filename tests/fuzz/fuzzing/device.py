"""What a device has beside the file that is fuzzed: the demo's bundle, opened once, and frames."""

from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import numpy as np

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.engines.choice import EngineSettings, open_backend
from edgemem.runtime.loop import Runtime
from edgemem.state.store import State

BATCH = 16


@cache
def bundle():
    return open_bundle(BUNDLE)


@cache
def backend():
    return open_backend(bundle(), "cpu", EngineSettings(threads=1))


@cache
def frames():
    """Batches [n, 16, 1, 8, 8] uint8 of the demo's stream, of two conditions."""
    with np.load(STREAM) as data:
        x, contexts = data["x"], data["context"]
    names = list(dict.fromkeys(contexts.tolist()))[:2]
    count = 3 * BATCH
    return np.concatenate([x[contexts == name][:count] for name in names]).reshape(
        -1, BATCH, *x.shape[1:]
    )


class Sessions:
    """The backend of a bundle; graphs that are intact are opened once for all cases.

    contents: of the intact files, by name.
    """

    def __init__(self, opened, contents, profile="latency"):
        self._contents = contents
        self._own = open_backend(opened, "cpu", EngineSettings(1, profile))
        self.name, self.target = self._own.name, self._own.target

    def open(self, path, binding=None):
        files = [path, path.with_name("weights.bin")]
        if all(
            file.is_file() and file.read_bytes() == self._contents.get(file.name) for file in files
        ):
            return backend().open(BUNDLE / path.name)
        return self._own.open(path, binding)


@contextmanager
def opened_state(path, identity=None, **options):
    state = State(path, identity or bundle().identity, **options)
    try:
        yield state
    finally:
        state.close()


@contextmanager
def runtime(path):
    """A runtime that goes on from a state file, as `edgemem.open` makes one."""
    state = State(path, bundle().identity)
    try:
        found = Runtime(bundle(), backend(), state=state)
    except BaseException:
        state.close()
        raise
    with found:
        yield found


def live(path, batches):
    """Write the state file that some batches lead to, at a moment that is always the same."""
    with patch("time.time", lambda: 1.7e9), runtime(path) as found:
        for batch in batches:
            found.step(batch)
            found.flush()
