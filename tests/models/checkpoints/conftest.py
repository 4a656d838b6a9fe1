"""A network whose weights checkpoints hold."""

import pytest

from edgemem.models.networks.digits import Digits


@pytest.fixture(scope="module")
def network(lively):
    return lively(Digits(width=4))
