"""Shared fixtures: copies of the packaged bundle, frames, and a way to alter a bundle's files."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from sealing import reseal

from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.demo import BUNDLE, STREAM

# The same examples on every machine; `pytest --hypothesis-profile=explore` looks for new ones.
RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, database=None, max_examples=50, **RELAXED)
settings.register_profile("explore", max_examples=500, **RELAXED)
# A few of the same, where code is emulated and ten times slower.
settings.register_profile("few", derandomize=True, database=None, max_examples=5, **RELAXED)
settings.load_profile("fixed")


@pytest.fixture
def bundle(tmp_path):
    """A writable copy of the demo bundle (digits, 1x8x8, batches of 16)."""
    return shutil.copytree(BUNDLE, tmp_path / "digits.edgemem")


@pytest.fixture(scope="session")
def demo_levels(tmp_path_factory):
    """Two levels of branch 2 that fit the demo bundle, with blocks (do not write there)."""
    folder, random = tmp_path_factory.mktemp("levels"), np.random.default_rng(0)
    blocks = random.normal(size=(12, 42_972)).astype(np.float32)
    keys = random.normal(size=(12, 48)).astype(np.float32)
    np.savez(folder / "source.npz", keys=keys, blocks=blocks)
    build_bank(folder / "source.npz", folder / "bank", levels=2, branch=2, storage="float16")
    return folder / "bank"


@pytest.fixture
def shipped_bundle(tmp_path, demo_levels):
    """A writable copy of the demo bundle with `demo_levels` in it."""
    ship(demo_levels, BUNDLE, tmp_path / "shipped.edgemem")
    return tmp_path / "shipped.edgemem"


@pytest.fixture(scope="session")
def digits_stream():
    """Frames [4800, 1, 8, 8] uint8 and labels."""
    with np.load(STREAM) as data:
        return data["x"], data["y"]


@pytest.fixture(scope="session")
def even_frames():
    """Frames [160, 1, 8, 8] float32 of all classes alike, as the demo's model was trained on."""
    from sklearn.datasets import load_digits

    digits = load_digits().images[:160] * (255 / 16)
    return (np.round(digits).astype(np.float32) / 255)[:, None]


@pytest.fixture
def seal():
    """Rewrite sizes and hashes after a change, so that only deeper checks can notice it."""

    return reseal
