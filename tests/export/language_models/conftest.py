"""One export for all tests of the folder that need one."""

import pytest
from language_models import export


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A tiny GPT-2 with memories (do not write there)."""
    return export(tmp_path_factory.mktemp("exported"), "gpt2", n_layer=2)
