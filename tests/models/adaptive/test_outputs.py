"""What a model returns becomes logits with the same decisions, or is refused by name."""

import pytest
import torch
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import attach
from edgemem.models.adaptive.outputs import logits_of
from edgemem.models.networks.digits import Digits

X = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Ending(nn.Module):
    """A network with something after its last layer."""

    def __init__(self, network, end):
        super().__init__()
        self.network, self.end = network, end

    def forward(self, x):
        return self.end(self.network(x))


@pytest.fixture(scope="module")
def network(lively):
    """classes -> a network whose logits are large and lie on both sides of zero."""

    def make(classes):
        found = lively(Digits(classes=classes, width=4))
        with torch.no_grad():
            found.classifier.weight.mul_(30)
            found.classifier.bias.sub_(found(X).median(0).values)
        return found

    return make


def attached(model):
    return attach(model, ["network.layer1"], torch.zeros(2, 1, 8, 8))


ENDS = {
    "probabilities": [
        lambda y: y.softmax(1),
        nn.Softmax(dim=1),
        lambda y: (y.softmax(1) + (y / 2).softmax(1)) / 2,
        lambda y: y.exp() / y.exp().sum(1, keepdim=True),
    ],
    "logits": [lambda y: y, lambda y: y.log_softmax(1), lambda y: y / 50 + 0.5, nn.Hardtanh(0, 6)],
}


@pytest.mark.parametrize(("kind", "number"), [(k, n) for k in ENDS for n in range(4)])
def test_rows_of_many_classes_keep_their_distribution(kind, number, network):
    model = Ending(network(5), ENDS[kind][number])
    adaptive = attached(model)
    assert adaptive.attachment.outputs == kind
    with torch.no_grad():
        expected = model(X) if kind == "logits" else model(X).log().clamp(min=-60)
        torch.testing.assert_close(
            adaptive.frozen_logits(X).clamp(min=-60), expected, rtol=1e-5, atol=1e-5
        )


SINGLE = {
    "one logit": [lambda y: y, lambda y: y[:, 0], lambda y: y.squeeze(1), lambda y: y * 2],
    "one probability": [
        torch.sigmoid,
        nn.Sigmoid(),
        lambda y: y.sigmoid().squeeze(-1),
        lambda y: torch.sigmoid(y)[:, 0],
        lambda y: 1 / (1 + (-y).exp()),
    ],
}


@pytest.mark.parametrize(("kind", "end"), [(k, e) for k, ends in SINGLE.items() for e in ends])
def test_a_single_output_is_two_classes_with_the_same_decision(kind, end, network):
    model = Ending(network(1), end)
    adaptive = attached(model)
    assert adaptive.attachment.outputs == kind
    with torch.no_grad():
        own, logits = model(X).reshape(-1), adaptive.frozen_logits(X)
    assert logits.shape == (200, 2)
    cut = 0.5 if kind == "one probability" else 0.0
    assert (logits.argmax(1) == (own > cut)).all()
    assert 0.2 < (own > cut).float().mean() < 0.8
    probability = own if kind == "one probability" else own.sigmoid()
    torch.testing.assert_close(logits.softmax(1)[:, 1], probability, rtol=1e-4, atol=2e-6)


def test_a_sigmoid_that_has_saturated_keeps_its_logit(network):
    """From the probability, which is 1 in fp32, 20 and 40 could not be told apart."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Sigmoid())
    nn.init.ones_(model[1].weight)
    x = torch.tensor([[20.0], [40.0], [-40.0]])
    with torch.no_grad():
        assert logits_of(model, x, "one probability")[:, 1].tolist() == [20.0, 40.0, -40.0]


@pytest.mark.parametrize("hold", [lambda y: {"out": y}, lambda y: (y,), lambda y: [y]])
def test_logits_may_be_the_one_thing_that_is_returned(hold, network):
    model = Ending(network(5), hold)
    adaptive = attached(model)
    assert adaptive.attachment.task == "classes"
    with torch.no_grad():
        torch.testing.assert_close(adaptive.frozen_logits(X), model.network(X))


@pytest.mark.parametrize(
    ("classes", "end", "reason"),
    [
        (5, torch.sigmoid, "multi-label"),
        (5, lambda y: 1 / (1 + (-y).exp()), "multi-label"),
        (1, lambda y: y.softmax(1), "a softmax over one class"),
        (5, lambda y: y[:, :, None], r"returns out0 \[n, 5, 1\].*'sequence' or "),
        (5, lambda y: y.argmax(1, keepdim=True), r"int64\[2, 1\]: a decision.*Return the numbers"),
        (5, lambda y: {"a": y, "b": y}, r"a \[n, 5\], b \[n, 5\].*Name its task"),
    ],
)
def test_what_is_no_choice_among_classes_is_refused_by_name(classes, end, reason, network):
    with pytest.raises(AttachError, match=reason):
        attached(Ending(network(classes), end))


def test_small_logits_are_not_taken_for_probabilities(network):
    """All between 0 and 1 on the source's frames, and still logits."""
    model = network(5)
    with torch.no_grad():
        model.classifier.weight.mul_(1e-4)
        model.classifier.bias.fill_(0.5)
        assert ((model(X) > 0) & (model(X) < 1)).all()
    for end in (lambda y: y, lambda y: y + 0):
        assert attached(Ending(model, end)).attachment.outputs == "logits"


@pytest.mark.parametrize(
    ("classes", "outputs", "reason"),
    [
        (3, "softmax", "is not a known choice"),
        (3, "one logit", "returns 3 numbers a frame, not one"),
        (3, "one probability", "returns 3 numbers a frame, not one"),
        (1, "logits", "returns one number a frame, not logits"),
        (1, "probabilities", "returns one number a frame, not logits"),
    ],
)
def test_outputs_that_the_model_has_not_are_refused(classes, outputs, reason, network):
    x, parts = torch.zeros(2, 1, 8, 8), ["layer1"]
    with pytest.raises(AttachError, match=reason):
        attach(network(classes), parts, x, outputs=outputs)
    attach(network(classes), parts, x)  # the remedy is true
