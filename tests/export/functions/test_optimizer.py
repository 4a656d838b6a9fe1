"""The optimisers, as pure functions, against torch.optim."""

import pytest
import torch

from edgemem.export.functions.optimizer import OPTIMIZERS, Optimizer, updated

SHAPES = {"scale": (5,), "kernel": (4, 3, 3, 3), "number": ()}
STEPS = 8


def gradients(step, values):
    """Some smooth function's gradient plus noise, with a sparse array."""
    generator = torch.Generator().manual_seed(step)
    grads = {
        k: v.sin() + 0.1 * torch.randn(v.shape, generator=generator) for k, v in values.items()
    }
    grads["scale"] = grads["scale"] * (torch.arange(5) % 2)
    return grads


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        ("adam", lambda p: torch.optim.Adam(p, 0.05)),
    ],
)
def test_every_step_equals_torch(name, theirs):
    optimizer = OPTIMIZERS[name](0.05)
    hp = {k: torch.tensor(v) for k, v in optimizer.hyper_parameters.items()}
    torch.manual_seed(0)
    block = {k: torch.randn(shape) for k, shape in SHAPES.items()}
    slots = optimizer.slots(block)
    parameters = {k: v.clone().requires_grad_() for k, v in block.items()}
    reference = theirs(list(parameters.values()))
    for step in range(STEPS):
        grads = gradients(step, block)
        block, slots = optimizer.update(block, grads, slots, hp)
        for k, parameter in parameters.items():
            parameter.grad = grads[k].clone()
        reference.step()
        for k, parameter in parameters.items():
            torch.testing.assert_close(block[k], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_start_at_zero_and_keep_their_names(name):
    optimizer = OPTIMIZERS[name](0.1)
    block = {k: torch.ones(shape) for k, shape in SHAPES.items()}
    slots = optimizer.slots(block)
    assert all((value == 0).all() for value in slots.values())
    hp = {k: torch.tensor(v) for k, v in optimizer.hyper_parameters.items()}
    moved, after = optimizer.update(block, block, slots, hp)
    assert list(moved) == list(block)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in slots.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_of_zero_moves_nothing(name):
    optimizer = OPTIMIZERS[name](0.0)
    block = {k: torch.randn(shape) for k, shape in SHAPES.items()}
    hp = {k: torch.tensor(v) for k, v in optimizer.hyper_parameters.items()}
    moved, _ = optimizer.update(block, block, optimizer.slots(block), hp)
    assert all(moved[k].equal(block[k]) for k in block)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_small_arrays_as_one_move_as_they_would_alone(name):
    optimizer = OPTIMIZERS[name](0.05)
    assert optimizer.elementwise
    hp = {k: torch.tensor(v) for k, v in optimizer.hyper_parameters.items()}
    torch.manual_seed(0)
    alone = joined = {k: torch.randn(shape) for k, shape in SHAPES.items()}
    slots = others = optimizer.slots(alone)
    for step in range(STEPS):
        grads = gradients(step, alone)
        alone, slots = optimizer.update(alone, grads, slots, hp)
        joined, others = updated(optimizer, joined, grads, others, hp)
        for mine, theirs in ((joined, alone), (others, slots)):
            assert mine.keys() == theirs.keys()
            for k, value in theirs.items():
                torch.testing.assert_close(mine[k], value, rtol=1e-6, atol=1e-7)


def test_an_optimiser_that_looks_at_whole_arrays_gets_each_by_itself():
    def update(block, grads, slots, hp):
        return {k: v - grads[k] / grads[k].norm() for k, v in block.items()}, slots

    whole = Optimizer("normalised", {}, lambda block: {}, update)
    block = {"first": torch.zeros(2), "second": torch.zeros(3)}
    moved, _ = updated(whole, block, {"first": torch.ones(2), "second": torch.ones(3)}, {}, {})
    assert {k: v.norm().item() for k, v in moved.items()} == {
        "first": pytest.approx(1.0), "second": pytest.approx(1.0),
    }  # fmt: skip
