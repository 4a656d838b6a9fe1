"""Twenty steps of an engine beside torch's, where small changes of a block grow."""

import numpy as np
import pytest
import torch

from edgemem.bundle.manifest import FrameSpec
from edgemem.export.checks.parity import LATER_TOLERANCE, STEPS, _run_steps
from edgemem.export.functions.forward import Function

FRAMES = FrameSpec((3,), 2, companions=False, known_companions=0)


def _logistic(array, _):
    """Chaos: what two blocks differ by doubles at every step."""
    return 4 * array * (1 - array), torch.tensor(1.0)


ADAPT = Function(
    {"block.array": torch.linspace(0.11, 0.47, 8), "x": torch.zeros(2, 3)},
    ("next.block.array", "stat.updated"),
    _logistic,
    dynamic_batch=False,
)


def _engine(wrong_above):
    """Rounds as another engine does; `wrong_above`: values from which on its graph is another."""

    def call(inputs):
        array = np.asarray(inputs["block.array"])
        exact = 4 * array * (1 - array) * np.float32(1 + 1e-6)
        return {"next.block.array": np.where(array > wrong_above, exact + 1e-2, exact)}

    return call


def test_a_step_that_makes_rounding_grow_is_no_difference():
    found, updated = _run_steps(_engine(2.0), ADAPT, ADAPT.inputs, FRAMES, 0)
    assert 0 < found["next.block.array"] <= LATER_TOLERANCE
    assert updated == STEPS


@pytest.mark.parametrize("first", [0, 20])
def test_a_graph_that_is_wrong_for_later_blocks_alone_is_found(first):
    assert ADAPT.inputs["block.array"].max() < 0.9
    found, _ = _run_steps(_engine(0.9), ADAPT, ADAPT.inputs, FRAMES, first)
    assert found["next.block.array"] > 10 * LATER_TOLERANCE
