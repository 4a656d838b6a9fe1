"""Models that end in a softmax or a single output, on a device: decisions, and adapting."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks.digits import Digits

ENDS = {
    "probabilities": (5, nn.Softmax(dim=1)),
    "one logit": (1, lambda y: y.squeeze(1)),
    "one probability": (1, torch.sigmoid),
}
CHOICES = Choices(batch=8)


class Ending(nn.Module):
    def __init__(self, classes, end):
        super().__init__()
        self.network, self.end = Digits(classes=classes, width=4), end

    def forward(self, x):
        return self.end(self.network(x))


def loss_of(y, labels):
    if y.dim() == 2 and y.shape[1] > 1:
        return F.nll_loss(y.clamp(min=1e-12).log(), labels)
    y, target = y.reshape(-1), labels.float()
    inside = bool((y.detach() >= 0).all() and (y.detach() <= 1).all())
    return (F.binary_cross_entropy if inside else F.binary_cross_entropy_with_logits)(y, target)


@pytest.fixture(scope="module")
def source():
    """Digits in two halves, and labels of so many classes."""
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], digits.target[order]


@pytest.fixture(scope="module", params=ENDS)
def made(request, source, tmp_path_factory):
    """Kind of output, trained network, frames and labels held back, path of its bundle."""
    (classes, end), (x, digit) = ENDS[request.param], source
    y = digit % max(classes, 2)
    torch.manual_seed(0)
    network = Ending(classes, end).train()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(12):
        for at in range(0, 1280, 64):
            given = torch.from_numpy(x[at : at + 64])
            loss = loss_of(network(given), torch.from_numpy(y[at : at + 64]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    statistics = "remembered" if request.param == "one probability" else "mix"
    example = torch.zeros(2, 1, 8, 8)
    model = attach(network, ["network.layer2"], example, statistics=statistics, norm_affine=True)
    warm_up(model, x[:1280], y[:1280], Recipe(2, 64))
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    export_bundle(model, path, CHOICES)
    return request.param, network, x[1280:], y[1280:], path


@pytest.mark.slow
def test_the_frozen_model_decides_as_the_network_that_was_given(made):
    kind, network, x, _, path = made
    with torch.no_grad():
        own = network(torch.from_numpy(x)).numpy()
    with edgemem.open(path, threads=1) as runtime:
        logits = runtime.predict(x, frozen=True).logits
    with np.errstate(over="ignore"):
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if kind == "probabilities":
        np.testing.assert_allclose(probabilities, own, atol=1e-5)
        assert (logits.argmax(1) == own.argmax(1)).all()
    else:
        positive = own.reshape(-1) > (0.5 if kind == "one probability" else 0.0)
        assert (logits.argmax(1) == positive).all()
        expected = own if kind == "one probability" else torch.from_numpy(own).sigmoid().numpy()
        np.testing.assert_allclose(probabilities[:, 1], expected.reshape(-1), atol=1e-5)
    origin = open_bundle(path).manifest.exported_from
    assert origin["outputs"] == kind


@pytest.mark.slow
def test_it_adapts_on_its_source_without_harm(made):
    _, _, x, y, path = made
    with edgemem.open(path, threads=1) as runtime:
        frozen = (runtime.predict(x, frozen=True).labels == y).mean()
        found = runtime.step(x)
    assert frozen > 0.85
    assert (found.labels == y).mean() > frozen - 0.03
    assert found.entropy.mean() < 0.5 * np.log(found.logits.shape[1])


@pytest.mark.parametrize("end", [lambda y: y, torch.sigmoid])
def test_a_single_output_that_nobody_compared_with_labels_is_refused(end, tmp_path):
    model = attach(Ending(1, end).eval(), ["network.layer1"], torch.zeros(2, 1, 8, 8))
    with pytest.raises(ExportError, match="single output.*not warmed up.*return two logits"):
        export_bundle(model, tmp_path / "net.edgemem", CHOICES)
    assert not list(tmp_path.iterdir())


def test_the_remedy_for_a_single_output_is_true():
    """Two logits, as the refusal says, decide alike."""
    network = Ending(1, lambda y: y).eval()
    two = Ending(1, lambda z: torch.cat([torch.zeros_like(z), z], 1)).eval()
    two.load_state_dict(network.state_dict())
    model = attach(two, ["network.layer1"], torch.zeros(2, 1, 8, 8))
    x = torch.rand(50, 1, 8, 8)
    with torch.no_grad():
        assert (model.frozen_logits(x).argmax(1) == (network(x)[:, 0] > 0)).all()
    assert model.attachment.outputs == "logits"


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.slow
def test_names_of_the_source_data_are_the_labels_and_others_are_refused(tmp_path, caplog, capfd):
    """Norms alone adapt, so one output is a constant, of which the tracer's passes would warn."""
    torch.manual_seed(0)
    model = attach(Digits(width=4).eval(), [], torch.zeros(2, 1, 8, 8), norm_affine=True)
    model.labels, path = NAMES, tmp_path / "net.edgemem"
    with pytest.raises(ExportError, match="labels .* contradict those of the source data"):
        export_bundle(model, path, Choices(batch=8, labels=NAMES[::-1]))
    with caplog.at_level(logging.WARNING):
        export_bundle(model, path, CHOICES)
    assert open_bundle(path).manifest.labels == NAMES
    assert "Skipped" not in caplog.text + "".join(capfd.readouterr())
