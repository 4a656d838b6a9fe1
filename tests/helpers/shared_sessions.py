"""Sessions of onnxruntime by content: to make one takes most of the time of a short test.

A session keeps nothing from one run to the next, so runtimes that load the same bytes in the same
way may share it. All else is as without: files are read, checked and parsed at every opening.
"""

import threading
from contextlib import contextmanager
from hashlib import sha256

import pytest

from edgemem.runtime.engines import onnxruntime_engine

_made, _reading = {}, threading.local()
_load = onnxruntime_engine.loaded
_make = onnxruntime_engine.onnxruntime.InferenceSession


class _Read:
    """Files, and a digest of all bytes that they gave."""

    def __init__(self, files):
        self.files, self.digest = files, sha256()

    def read(self, path):
        content = self.files.read(path)
        self.digest.update(b"%d:" % len(content) + content)
        return content

    def steady(self, path):
        return self.files.steady(path)


@contextmanager
def _loaded(path, files, options, *, mapped=False):
    read = _Read(files)
    with _load(path, read, options, mapped=mapped) as content:
        # The bytes that an engine maps are not read here, so nobody knows what they are.
        _reading.digest = None if mapped else read.digest.hexdigest()
        try:
            yield content
        finally:
            _reading.digest = None


def _session(content, options, **more):
    digest = getattr(_reading, "digest", None)
    known = digest is not None and more["providers"] == [onnxruntime_engine.CPU]
    if not known or options.optimized_model_filepath:
        return _make(content, options, **more)
    chosen = (options.intra_op_num_threads, options.graph_optimization_level)
    key = digest, *chosen, *more["disabled_optimizers"]
    if key not in _made:
        _made[key] = _make(content, options, **more)
    return _made[key]


@pytest.fixture(scope="module", autouse=True)
def sessions():
    """For a folder's conftest.py; tests of how a session is made hide it by one of this name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_engine, "loaded", _loaded)
        patch.setattr(onnxruntime_engine.onnxruntime, "InferenceSession", _session)
        yield
