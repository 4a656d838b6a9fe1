"""Arrays joined to one vector and taken apart again."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemem.models.joint_arrays import Joint, for_each, small

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=2).map(tuple), min_size=1, max_size=6).map(
    lambda shapes: {f"a{k}": shape for k, shape in enumerate(shapes)}
)


def drawn(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@given(SHAPES)
def test_what_is_joined_comes_apart_as_it_was(shapes):
    arrays = drawn(shapes, 0)
    joint = Joint(arrays)
    found = joint.parts(joint.vector(arrays))
    assert list(found) == list(arrays)
    assert all(found[k].equal(v) and found[k].shape == v.shape for k, v in arrays.items())


@given(SHAPES)
def test_a_function_of_all_is_that_of_each(shapes):
    first, second = drawn(shapes, 0), drawn(shapes, 1)
    found = for_each(lambda a, b: a * b + 1, first, second | {"another": torch.zeros(9)})
    assert all(found[k].equal(first[k] * second[k] + 1) for k in first)


def test_gradients_reach_every_array():
    arrays = {k: v.requires_grad_() for k, v in drawn({"a": (3,), "b": (2, 2)}, 0).items()}
    joint = Joint(arrays)
    weights = torch.arange(7.0)
    slopes = torch.autograd.grad((joint.vector(arrays) * weights).sum(), list(arrays.values()))
    assert slopes[0].equal(weights[:3]) and slopes[1].equal(weights[3:].view(2, 2))


def test_small_arrays_are_vectors_and_numbers():
    arrays = {"kernel": torch.zeros(2, 2), "scale": torch.zeros(2), "count": torch.zeros(())}
    assert list(small(arrays)) == ["scale", "count"]


def test_of_nothing_there_is_nothing():
    assert for_each(lambda a: a, {}) == {}
    kernel = {"kernel": torch.ones(2, 2)}
    assert for_each(lambda a: a + 1, kernel)["kernel"].equal(torch.full((2, 2), 2.0))
