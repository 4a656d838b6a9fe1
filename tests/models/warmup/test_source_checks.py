"""What source frames say before training: another scale, a single output that says nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemem.errors import InputError
from edgemem.models import Normalization, Recipe, attach, warm_up
from edgemem.models.networks.digits import Digits
from edgemem.models.warmup.source_checks import check_source

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BYTES = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class WithActivation(nn.BatchNorm2d):
    """A norm that does more than torch's, so that its layer is kept."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class Colour(nn.Module):
    def __init__(self, classes=4, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


@pytest.fixture(scope="module")
def frames():
    random = np.random.default_rng(0)
    level = random.uniform(0.2, 0.8, (96, 3, 1, 1))
    return np.clip(level + 0.2 * random.normal(size=(96, 3, 8, 8)), 0, 1).astype(np.float32)


def trained(frames, normalization, classes=4, norm=nn.BatchNorm2d):
    """A network whose norms have seen these frames."""
    torch.manual_seed(0)
    network = Colour(classes, norm).train()
    x = torch.from_numpy(frames)
    if normalization is not None:
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1) for v in vars(normalization).values())
        x = (x - mean) / deviation
    with torch.no_grad():
        for _ in range(80):
            network(x)
    return network.eval()


def adaptive(network, normalization=None):
    return attach(network, ["stem"], torch.zeros(2, 3, 8, 8), normalization=normalization)


LABELS = np.arange(96) % 4
AS_BYTES = Normalization((0.0,), (1 / 255,))


@pytest.mark.parametrize("normalization", [None, IMAGENET, BYTES, AS_BYTES], ids=str)
def test_frames_as_in_training_pass_whatever_the_numbers_are(normalization, frames):
    """Also where what the network gets has no mean of zero: its own norm knows."""
    given = 255 * frames if normalization is BYTES else frames
    model = adaptive(trained(given, normalization), normalization)
    check_source(model, given, LABELS)
    low, high = np.quantile(given.transpose(1, 0, 2, 3).reshape(3, -1), (0.001, 0.999), axis=1)
    np.testing.assert_allclose(model.source_range, [low, high], rtol=1e-5)


def refusal(network, frames, normalization):
    model = adaptive(network, normalization)
    before = {name: value.clone() for name, value in model.state_dict().items() if "meta" in name}
    with pytest.raises(InputError) as error:
        warm_up(model, frames, LABELS, Recipe(1, 16))
    assert all(value.equal(model.state_dict()[name]) for name, value in before.items())
    return error.value


def test_a_mean_for_bytes_on_frames_of_one_is_refused_with_what_is_right(frames):
    network = trained(frames, IMAGENET)
    error = refusal(network, frames, BYTES)
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in error.remedy
    uint8 = (255 * frames).astype(np.uint8)
    assert refusal(network, uint8, BYTES).remedy == error.remedy
    check_source(adaptive(network, IMAGENET), uint8, LABELS)  # the remedy is true


def test_a_mean_alone_for_bytes_is_refused(frames):
    right = Normalization((0.485, 0.456, 0.406), (1.0, 1.0, 1.0))
    network = trained(frames, right)
    error = refusal(network, frames, Normalization(BYTES.mean, (1.0, 1.0, 1.0)))
    assert "--mean 0.485,0.456,0.406 --std 1,1,1" in error.remedy


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, WithActivation])
@pytest.mark.parametrize("normalization", [None, IMAGENET], ids=str)
def test_floats_up_to_255_where_one_is_meant_are_refused(normalization, norm, frames):
    error = refusal(trained(frames, normalization, norm=norm), 255 * frames, normalization)
    assert "Divide the frames by 255" in error.remedy
    assert "mean" in error.reason


def test_frames_of_one_where_the_network_knows_bytes_are_refused(frames):
    network = trained(255 * frames, None)
    error = refusal(network, frames, None)
    assert "--mean 0 --std 0.00392" in error.remedy
    check_source(adaptive(network, Normalization((0.0,), (0.00392,))), frames, LABELS)


def test_other_signals_are_refused_without_a_guess(frames):
    error = refusal(trained(frames, IMAGENET), 3000 + 7 * frames, IMAGENET)
    assert error.remedy.startswith("Pass frames, and --mean and --std, as the model")


@pytest.mark.parametrize("shift", [0.6, 1.0, 1.5])
def test_brighter_darker_and_flatter_frames_are_no_other_scale(shift, frames):
    model = adaptive(trained(frames, IMAGENET), IMAGENET)
    check_source(model, np.clip(frames * shift, 0, 1), LABELS)
    check_source(model, 0.3 * frames + 0.35, LABELS)


@pytest.fixture(scope="module")
def one_logit(frames):
    """A network with one logit, and labels that it is right about."""
    network = trained(frames, None, classes=1)
    with torch.no_grad():
        network.head.bias.sub_(network(torch.from_numpy(frames)).median())
        return network, (network(torch.from_numpy(frames))[:, 0] > 0).long().numpy()


def test_a_single_logit_that_agrees_with_labels_warms_up(one_logit, frames):
    network, labels = one_logit
    model = adaptive(network)
    warm_up(model, frames, labels, Recipe(1, 16))
    assert model.warm and model.classes == 2


def test_a_single_output_that_says_nothing_about_labels_is_refused(one_logit, frames):
    network, labels = one_logit
    for wrong in (1 - labels, np.arange(96) % 2):
        with pytest.raises(InputError, match="single output: is right on .*no better than chance"):
            check_source(adaptive(network), frames, wrong)


def test_source_labels_of_a_multi_label_model_are_refused_by_name(frames, lively):
    model = attach(lively(Digits(width=4)), ["layer1"], torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match="multi-label"):
        warm_up(model, frames[:, :1], np.eye(10, dtype=np.int64)[LABELS], Recipe(1, 16))
