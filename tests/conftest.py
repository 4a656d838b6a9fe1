"""Shared fixtures: a copy of the packaged bundle, frames, and a way to alter a bundle's files."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edgemem.demo import BUNDLE, STREAM

# The same examples on every machine; `pytest --hypothesis-profile=explore` looks for new ones.
RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, database=None, max_examples=50, **RELAXED)
settings.register_profile("explore", max_examples=500, **RELAXED)
settings.load_profile("fixed")


@pytest.fixture
def bundle(tmp_path):
    """A writable copy of the demo bundle (digits, 1x8x8, batches of 16)."""
    return shutil.copytree(BUNDLE, tmp_path / "digits.edgemem")


@pytest.fixture(scope="session")
def digits_stream():
    """Frames [4800, 1, 8, 8] uint8 and labels."""
    with np.load(STREAM) as data:
        return data["x"], data["y"]


@pytest.fixture
def seal():
    """Rewrite sizes and hashes after a change, so that only deeper checks can notice it."""

    def reseal(bundle, change=lambda manifest: None):
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        for name, record in manifest["files"].items():
            if (bundle / name).is_file():
                content = (bundle / name).read_bytes()
                record.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        path.write_text(json.dumps(manifest))

    return reseal
