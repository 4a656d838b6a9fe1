"""Norms, key and classifier are found by use, not by class, name or order of declaration."""

import copy

import pytest
import torch
from attached_networks import attached, convolution, frames, run
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import Recipe, observe_source, warm_up


class Base(nn.Module):
    """Declared from the end to the beginning."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(6, 4)
        self.last = convolution(8, 6)
        self.first = convolution(3, 8)

    def features(self, x):
        return self.last(self.first(x).relu()).relu().mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


class TrainingOnly(Base):
    """A second head, as GoogLeNet has it."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Sequential(convolution(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.aux_classifier = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        other = self.aux_classifier(self.aux(x)) if self.training else None
        x = self.classifier(self.last(x).relu().mean((2, 3)))
        return (x, other) if self.training else x


class Ignored(TrainingOnly):
    """The second head runs always, and its answer is thrown away."""

    def forward(self, x):
        x = self.first(x).relu()
        self.other = self.aux_classifier(self.aux(x)).detach()
        return self.classifier(self.last(x).relu().mean((2, 3)))


class WithoutGradient(Base):
    """Features in no_grad: no slope tells that the answer depends on their norms."""

    def forward(self, x):
        with torch.no_grad():
            features = self.features(x)
        return self.classifier(features)


class ByNumbers(Base):
    """Takes numbers out of its tensors, which those with a gradient refuse."""

    def forward(self, x):
        x = self.features(x)
        return self.classifier(torch.from_numpy(x.numpy()) * (1 if float(x.sum()) > -1e9 else 2))


class Folded(Base):
    """Reads a norm's arrays and never runs it."""

    def forward(self, x):
        norm, x = self.first[1], self.first[0](x)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        x = (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).relu()
        return self.classifier(self.last(x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "norms"),
    [
        (Base(), {"last.1", "first.1"}),
        (TrainingOnly(), {"last.1", "first.1"}),
        (Ignored(), {"last.1", "first.1"}),
        (WithoutGradient(), {"last.1", "first.1"}),
        (ByNumbers(), {"last.1", "first.1"}),
        (Folded(), {"last.1"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_block_holds_the_norms_on_which_the_answer_depends(network, norms):
    model = attached(network, norm_affine=True)
    found = {name.removeprefix("frozen.").rsplit(".", 1)[0] for name in model.block()}
    assert found == norms
    x = frames(6)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)


def test_the_key_is_of_the_norm_that_runs_first():
    network = Base()
    model = attached(network)
    assert model.key_norm is model.frozen.first[1]
    x = frames(6)
    before = run(model, x).key
    model.add_norm_affine()
    with torch.no_grad():
        for value in model.block().values():
            value.normal_()
    assert run(model, x).key.equal(before)


def test_a_warm_up_goes_through_where_a_head_runs_in_training_only():
    model = attached(TrainingOnly(), ["last"], statistics="remembered", norm_affine=True)
    labels = torch.arange(64).numpy() % 4
    warm_up(model, frames(64).numpy(), labels, Recipe(epochs=1, batch_size=16))
    assert not any("aux" in name for name in model.block())


class Distractors(Base):
    """Linear layers of as many outputs before and after the one that answers, never or unasked."""

    def __init__(self):
        super().__init__()
        self.never = nn.Linear(6, 4)
        self.before, self.after = nn.Linear(6, 4), nn.Linear(4, 4)
        self.map = nn.Linear(4, 6)

    def forward(self, x):
        x = self.features(x)
        x = x + self.map(self.before(x))
        logits = self.classifier(x)
        self.unused = self.after(logits)
        return logits


class Scaled(Base):
    """A temperature after the classifier."""

    def __init__(self):
        super().__init__()
        self.never = nn.Linear(6, 4)

    def forward(self, x):
        return 3 * super().forward(x)


class Twice(Base):
    """Its linear layer runs twice, so what it was given is no one thing."""

    def forward(self, x):
        return self.classifier(self.features(x)) + self.classifier(self.features(x.flip(3)))


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (Base(), "classifier"),
        (Distractors(), "classifier"),
        (Scaled(), "classifier"),
        (Twice(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_classifier_is_the_layer_that_answers(network, name):
    model = attached(network)
    assert model.classifier is (model.frozen.classifier if name else None)


class Shared(Base):
    """One norm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 4)

    def features(self, x):
        return self.first[1](self.last(self.first(x).relu())).relu().mean((2, 3))


def test_a_norm_that_runs_twice_is_not_remembered_but_mixed():
    with pytest.raises(AttachError, match=r"'first\.1'.*runs 2 times") as caught:
        attached(Shared(), statistics="remembered")
    assert caught.value.remedy == "Use statistics mix"
    network = Shared()
    model = attached(network, statistics="mix")
    x = frames(6)
    found = run(model, x, torch.tensor(1.0))
    expected = run(copy.deepcopy(network).train(), x)
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-4)
    y = run(network.first[0], x)
    shift = (y.mean((0, 2, 3)) - network.first[1].running_mean) / (
        network.first[1].running_var + 1e-5
    ).sqrt()
    torch.testing.assert_close(found.key[:8], shift, rtol=1e-4, atol=1e-5)  # of its first run
    observe_source(model, x.numpy())
    assert model.source_moments.shape == (6, 2, 8)


class AlwaysBatch(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n: n.last.__setitem__(1, AlwaysBatch(6)), "statistics of its batch in eval mode"),
        (
            lambda n: n.last.__setitem__(1, nn.BatchNorm2d(6, track_running_stats=False)),
            "keeps no running statistics",
        ),
        (lambda n: n.last.append(Centred()), "beside other frames"),
        (lambda n: n.last.append(AlwaysDrops()), "draws random numbers"),
    ],
)
def test_a_model_without_an_answer_of_its_own_is_refused(change, reason):
    network = Base()
    change(network)
    with pytest.raises(AttachError, match=reason):
        attached(network)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class AlwaysDrops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


def test_weights_may_be_normed_by_a_functional_batch_norm():
    """As some networks standardise their kernels: no statistics of frames."""

    class Standard(nn.Conv2d):
        def forward(self, x):
            flat = self.weight.reshape(1, len(self.weight), -1)
            weight = nn.functional.batch_norm(flat, None, None, training=True, momentum=0.0)
            return self._conv_forward(x, weight.view_as(self.weight), self.bias)

    network = Base()
    network.first[0] = Standard(3, 8, 3, padding=1)
    model = attached(network, norm_affine=True)
    x = frames(6)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert len(model.block()) == 4
