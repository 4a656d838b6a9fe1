"""A model of prototypes: how it grows, how it answers, what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemem.errors import InputError
from edgemem.models.networks import digits
from edgemem.models.prototypes import PrototypeModel, TaskRecipe, learn_task


@pytest.fixture
def model():
    """Frames in a plane as their own features; classes 7, 3 right and left; 5, 1 up, down."""
    model = PrototypeModel(nn.Identity(), 2).with_task([7, 3]).with_task([5, 1])
    with torch.no_grad():
        model.prototypes[0].copy_(torch.tensor([[9.0, 0.0], [-0.1, 0.0]]))
        model.prototypes[1].copy_(torch.tensor([[0.0, 4.0], [0.0, -1.0]]))
    return model


def frames(*rows):
    return np.array(rows, np.float32)


def test_the_nearest_prototype_by_angle_answers_whatever_its_length(model):
    x = frames((2, 1), (-0.2, 0.1), (1, 3), (0.1, -0.2))
    assert model.predict(x).tolist() == [7, 3, 5, 1]
    assert model.predict(x, model.tasks[0]).tolist() == [7, 3, 7, 7]
    assert model.predict(x, model.tasks[1]).tolist() == [5, 5, 5, 1]
    assert model.predict(x, [1, 3]).tolist() == [1, 3, 3, 1]
    assert model.predict(x, batch_size=3).tolist() == [7, 3, 5, 1]
    x.flags.writeable = False  # as frames that are mapped from a file
    assert model.predict(x).dtype == np.int64
    assert model.predict(x[:0]).shape == (0,)


def test_forward_gives_cosines_in_the_order_of_classes(model):
    assert model.classes == (7, 3, 5, 1)
    cosines = model(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(cosines, torch.tensor([[0.6, -0.6, 0.8, -0.8]]))


def test_a_copy_grows_and_the_model_stays(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    more = model.with_task([0, 9, 4], seed=3)
    assert (model.tasks, more.tasks) == (((7, 3), (5, 1)), ((7, 3), (5, 1), (0, 9, 4)))
    assert list(more.prototypes[2].shape) == [3, 2]
    with torch.no_grad():
        for parameter in more.parameters():
            parameter.zero_()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_seeds_decide_where_head_and_prototypes_start_and_touch_no_global_state():
    state = torch.get_rng_state()
    one, other, third = (
        PrototypeModel(nn.Identity(), 4, seed=s).with_task([0], s) for s in (1, 1, 2)
    )
    assert torch.get_rng_state().equal(state)
    for name, value in one.state_dict().items():
        assert value.equal(other.state_dict()[name])
        assert not value.equal(third.state_dict()[name])
    assert one.prototypes[0].abs().max() <= 0.5


@pytest.mark.parametrize(
    ("classes", "message"),
    [([], "Name each class once"), ([2, 2], "Name each class once"), ([9, 3], r"hold \[3\]")],
)
def test_a_task_of_no_or_known_classes_is_refused(model, classes, message):
    with pytest.raises(InputError, match=message):
        model.with_task(classes)


@pytest.mark.parametrize("among", [[2], [7, -1], []])
def test_choosing_among_classes_that_are_not_known_is_refused(model, among):
    with pytest.raises(InputError, match="not among the 4 that were learnt"):
        model.predict(frames((1, 1)), among)


def test_a_model_without_classes_says_so():
    model = PrototypeModel(nn.Identity(), 2)
    with pytest.raises(InputError, match="not among the 0 that were learnt"):
        model.predict(frames((1, 1)))
    with pytest.raises(InputError, match="knows no class yet"):
        model(torch.ones(1, 2))


def test_an_encoder_that_gives_no_features_is_named():
    model = PrototypeModel(nn.Unflatten(1, (1, 2)), 2).with_task([0])
    with pytest.raises(InputError, match=r"gives \[1, 1, 2\], not features \[1, 2\]"):
        model.predict(frames((1, 1)))


def test_predicting_is_done_in_eval_mode_and_leaves_modes_and_statistics_alone():
    model = PrototypeModel(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)), 2).with_task([0, 1])
    model.train()
    model.encoder[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    assert (model.predict(x) == model.predict(x)).all()
    assert model.encoder[0].training and not model.encoder[1].training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_images_of_bytes_and_a_convolutional_encoder_do(lively):
    network = lively(digits())
    size = network(torch.zeros(1, *network.input_shape)).shape[1]
    x = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8)
    model = PrototypeModel(network, size)
    learnt = learn_task(model, x, np.arange(12) % 3, TaskRecipe(epochs=1, batch_size=6))
    assert set(learnt.predict(x)) <= {0, 1, 2}
    assert (learnt.predict(x) == learnt.predict(x.astype(np.float32) / 255)).all()
