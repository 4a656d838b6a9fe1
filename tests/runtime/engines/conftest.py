"""Engines as they are."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def sessions():
    """Each its own: how they are made is what is tested."""
