"""An engine beside torch: where rounding grows from step to step, and where slots are rounding."""

import numpy as np
import pytest
import torch

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.export.checks.parity import (
    LATER_TOLERANCE,
    SLOT_TOLERANCE,
    STEPS,
    _run_steps,
    _slots,
)
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


def _cancelling(x):
    """A small sum of large numbers, as the gradients of some networks are."""
    return (((x * 1e4).sum() - 1e4 * x.sum() + x.mean() * 1e-2).reshape(1),)


SLOPE = Function(
    {"x": torch.rand(64, 3, generator=torch.Generator().manual_seed(0))},
    ("next.opt.momentum.a",),
    _cancelling,
    dynamic_batch=False,
)


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.02, True), (1.5, False)])
def test_a_slot_that_rounding_moves_has_more_room(factor, passes):
    x = SLOPE.inputs["x"]
    expected = {"next.opt.momentum.a": _cancelling(x)[0].numpy()}
    found = {name: value * np.float32(factor) for name, value in expected.items()}
    off = _slots(SLOPE, SLOPE.inputs, found, expected)["next.opt.momentum.a"]
    assert (off <= SLOT_TOLERANCE) == passes


def test_a_slot_that_rounding_does_not_move_has_none():
    plain = Function(
        SLOPE.inputs, SLOPE.outputs, lambda x: (x.sum().reshape(1),), dynamic_batch=False
    )
    expected = {"next.opt.momentum.a": SLOPE.inputs["x"].sum().reshape(1).numpy()}
    found = {name: value * np.float32(1.002) for name, value in expected.items()}
    assert _slots(plain, plain.inputs, found, expected)["next.opt.momentum.a"] > SLOT_TOLERANCE


@pytest.mark.parametrize(("size", "passes"), [(1e-6, True), (1.0, False)])
def test_a_slot_of_nothing_but_rounding_may_differ_if_it_is_small(size, passes):
    """As the gradient of a bias whose norm takes it away again."""

    def slopes(x):
        last_bits = (x.view(torch.int32) % 2).sum()
        return (x.sum().reshape(1), (size * (1 + last_bits / len(x))).reshape(1))

    names = ("next.opt.momentum.a", "next.opt.momentum.b")
    function = Function(SLOPE.inputs, names, slopes, dynamic_batch=False)
    values = slopes(SLOPE.inputs["x"])
    expected = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    found = expected | {names[1]: 1.5 * expected[names[1]]}
    assert (
        _slots(function, function.inputs, found, expected)[names[1]] <= SLOT_TOLERANCE
    ) == passes
