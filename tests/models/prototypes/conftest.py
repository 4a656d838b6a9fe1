"""A small problem that the tests of learning share."""

import numpy as np
import pytest
import torch
from torch import nn
from two_tasks import RECIPE, STEPS

from edgemem.models.prototypes import (
    PrototypeModel,
    learn_task,
)


@pytest.fixture(scope="session")
def new_model():
    """seed -> a model around a small MLP for frames of two numbers."""

    def make(seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)]
            return PrototypeModel(nn.Sequential(*layers), 16, seed=seed)

    return make


@pytest.fixture(scope="session")
def grid():
    """count, seed -> frames from a 3x3 grid of clusters, and their rows and columns."""

    def make(count, seed):
        rng = np.random.default_rng(seed)
        column, row = rng.integers(0, 3, (2, count))
        centres = 1.5 * (np.stack([column, row], 1) - 1)
        frames = (centres + rng.normal(0, 0.25, (count, 2))).astype(np.float32)
        return frames, row, column

    return make


@pytest.fixture(scope="module")
def data(grid):
    """48 frames: labels of a first task, and of a second."""
    frames, row, column = grid(16 * STEPS, 0)
    return frames, column, 3 + row


@pytest.fixture(scope="module")
def known(new_model, data):
    """A model that knows a first task."""
    return learn_task(new_model(), data[0], data[1], RECIPE)
