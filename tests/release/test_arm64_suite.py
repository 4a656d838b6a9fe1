"""What `make test-arm64` chooses and leaves out is there, without the emulator that runs it."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "arm64"


@pytest.fixture
def suite(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import suite as found

    yield found
    for name in ("suite", "machine"):
        sys.modules.pop(name, None)


def test_what_is_left_out_is_there(suite):
    for cpu in suite.LEAST_PASSED:
        assert len(suite.chosen(cpu)) > 10
    for test in suite.LEFT_OUT_TESTS:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (FOLDER.parents[1] / path).read_text()
