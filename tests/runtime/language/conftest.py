"""One bundle for all tests of the folder, and what transformers answers with its blocks.

tests/helpers/train/build_language_bundle.py wrote both.
"""

import json
import shutil
from pathlib import Path

import pytest

import edgemem

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny():
    """A Llama of two layers with memories (do not write there)."""
    return FOLDER / "tiny.edgemem"


@pytest.fixture(scope="session")
def recorded():
    """Answers and losses of transformers."""
    return json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def runtime(tiny):
    """The bundle, opened."""
    with edgemem.open_language(tiny, threads=1) as opened:
        yield opened


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of the bundle to write to."""
    return shutil.copytree(tiny, tmp_path / "copy.edgemem")
