"""The tiny bundle that can be taught classes, and ways to open it."""

import pytest
from teachable import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("taught") / "t.edgemem")


@pytest.fixture(params=["contexts", "one block", "predict only"])
def options(request):
    """Ways to open a bundle."""
    return {
        "contexts": {},
        "one block": {"contexts": False},
        "predict only": {"adapt": False},
    }[request.param]
