"""Frames for runs with contexts."""

import pytest
from context_runs import BATCH, bright_and_dark
from shared_sessions import sessions  # noqa: F401


@pytest.fixture(scope="session")
def visits(even_frames):
    """Bright, dark, bright, dark: four batches each, of all classes alike."""
    return bright_and_dark(even_frames[: 4 * BATCH])


@pytest.fixture
def block_alone(monkeypatch):
    """The block answers alone, however unsure it is."""
    monkeypatch.setattr("edgemem.runtime.guard.frozen_fallback.frozen_share", lambda *_: 0.0)


@pytest.fixture(scope="module")
def never_familiar():
    """Steps run on source frames, too, as if these were of a place of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemem.runtime.guard.frozen_fallback.is_near", lambda *_: False)
        yield
