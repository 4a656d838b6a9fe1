"""One bundle for all tests of the folder."""

import shutil

import pytest
from language_models import export

import edgemem


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A tiny Llama with memories (do not write there)."""
    return export(tmp_path_factory.mktemp("language"), num_hidden_layers=2)


@pytest.fixture(scope="session")
def runtime(exported):
    """The bundle, opened."""
    with edgemem.open_language(exported.bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the bundle to write to."""
    return shutil.copytree(exported.bundle, tmp_path / "copy.edgemem")
