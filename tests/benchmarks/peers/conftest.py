"""What peers are tried on."""

import pytest
import torch
from norm_peers import image_model, images, source_of


@pytest.fixture
def model():
    """A small network whose norms peers adapt."""
    torch.manual_seed(0)
    return image_model()


@pytest.fixture
def source():
    """Source data of that network, as peers get it."""
    return source_of(images(40, seed=1))


@pytest.fixture(params=["image", "sound"])
def kind(request):
    """What peers with a teacher are tried on."""
    return request.param
