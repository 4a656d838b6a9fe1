"""What is exported is the model that was given; what cannot be is told before a warm-up."""

import sys

import numpy as np
import pytest
import torch
from small_network import Brighter
from torch import nn

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.cli import main
from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.export.checks.parity import check_at_rest
from edgemem.export.checks.rehearsal import rehearse
from edgemem.export.choices import frame_spec
from edgemem.export.lowering import table
from edgemem.models import attach
from edgemem.models.networks.digits import Digits

SHAPE = (2, 6, 6)


class Gated(nn.BatchNorm2d):
    """A batch norm that is gated by its own output."""

    def forward(self, x):
        x = super().forward(x)
        return x * torch.sigmoid(x)


class Small(nn.Module):
    input_shape = SHAPE

    def __init__(self, norm):
        super().__init__()
        self.one, self.first = nn.Conv2d(2, 4, 3, padding=1), norm(4)
        self.two, self.second = nn.Conv2d(4, 4, 3, 2, 1), norm(4)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        x = self.second(self.two(self.first(self.one(x)).relu()))
        return self.classifier(x.relu().mean((2, 3)))


class Clips(Small):
    """Four images are one frame."""

    input_shape = (4, *SHAPE)

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).view(-1, 4, 3).mean(1)


class ChannelsLast(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NETWORKS = {
    "a norm that does more": lambda: Small(Gated),
    "rows of several images": lambda: Clips(nn.BatchNorm2d),
    "layer norm": lambda: Small(ChannelsLast),
    "group norm": lambda: Small(lambda channels: nn.GroupNorm(2, channels)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def bundle(request, lively, tmp_path_factory):
    """A network, and its bundle."""
    network = lively(NETWORKS[request.param]())
    model = attach(network, [], torch.zeros(2, *network.input_shape), norm_affine=True)
    x = torch.rand(20, *network.input_shape)
    model.source_frames = x
    path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
    export_bundle(model, path, Choices(batch=8, learning_rate=0.05))
    return network, path, x


@pytest.mark.slow
def test_a_bundle_is_the_network_at_rest_and_learns(bundle, tmp_path):
    network, path, x = bundle
    manifest = open_bundle(path).manifest
    assert len(manifest.block.arrays) == 4
    with torch.no_grad():
        expected = network(x).numpy()
    state = tmp_path / "state.db"
    with edgemem.open(path, state, threads=1) as runtime:
        found = runtime.predict(x.numpy(), frozen=True).logits
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        before = runtime.predict(x.numpy()).logits
        runtime.step(x.numpy())
        assert runtime.counters["updates"] == 2
        later = runtime.predict(x.numpy()).logits
        assert (later != before).any()
    with edgemem.open(path, state, threads=1) as runtime:
        assert (runtime.predict(x.numpy()).logits == later).all()


@pytest.mark.slow
def test_without_source_statistics_there_is_neither_key_nor_weight_of_a_batch(bundle):
    network, path, _ = bundle
    manifest = open_bundle(path).manifest
    by_batch = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert manifest.key == (8 if by_batch else 0)
    assert ("alpha" in manifest.hyper_parameters) == by_batch
    assert manifest.frames.companions == by_batch
    assert manifest.exported_from["statistics"] == ("mix" if by_batch else "source")


def test_the_export_compares_with_the_network_on_frames_of_its_source(lively, tmp_path):
    network = lively(Digits(width=4))
    model = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8), norm_affine=True)
    model.frozen.stem.insert(0, Brighter())
    frames = frame_spec(model, Choices(batch=8))
    for source in (None, torch.rand(9, 1, 8, 8)):
        model.source_frames = source
        check_at_rest(model, frames)
    model.source_frames = 3 * torch.rand(9, 1, 8, 8)
    with pytest.raises(ExportError, match="is not that of the model that was given") as caught:
        export_bundle(model, tmp_path / "net.edgemem", Choices(batch=8))
    assert "'stem" in caught.value.thing
    assert list(tmp_path.iterdir()) == []


class Branch(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > -1e9 else 2 * x


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def branching():
    network = Digits(width=4)
    network.layer2.append(Branch())
    return network


def bessel():
    network = Digits(width=4)
    network.layer2.append(Bessel())
    return network


@pytest.mark.parametrize("make", [branching, pytest.param(bessel, marks=pytest.mark.slow)])
def test_a_rehearsal_refuses_as_the_export_would(make, lively, tmp_path):
    model = attach(lively(make()), ["layer1"], torch.zeros(2, 1, 8, 8), statistics="remembered")
    block = {name: value.clone() for name, value in model.block().items()}
    with pytest.raises(ExportError) as early:
        rehearse(model)
    assert list(model.block()) == list(block) and not model.warm
    model.mark_warm()
    model.add_norm_affine()
    with pytest.raises(ExportError) as late:
        export_bundle(model, tmp_path / "net.edgemem", Choices())
    assert str(early.value) == str(late.value)


@pytest.mark.slow
def test_a_rehearsal_of_what_can_be_exported_says_nothing(lively):
    model = attach(lively(Digits(width=4)), ["layer1"], torch.zeros(2, 1, 8, 8))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert rehearse(model) is None
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert not model.warm


@pytest.mark.slow
def test_a_step_that_only_the_meta_gradient_allows_is_told(lively, monkeypatch):
    """Within a part, the meta gradient needs no backward rule."""
    monkeypatch.delitem(table.RULES, torch.ops.aten.avg_pool2d_backward.default)
    network = Digits(width=4)
    network.layer1.append(nn.AvgPool2d(3, 1, 1))
    model = attach(lively(network), ["layer1"], torch.zeros(2, 1, 8, 8))
    error = rehearse(model)
    assert isinstance(error, ExportError)
    assert error.reason == "has no backward rule here"


@pytest.mark.slow
def test_a_warm_up_of_what_cannot_be_exported_is_refused_before_it(
    lively, tmp_path, monkeypatch, capsys
):
    torch.save(lively(bessel()).state_dict(), tmp_path / "net.pt")
    x, y = np.random.default_rng(0).random((64, 1, 8, 8), np.float32), np.arange(64) % 10
    np.savez(tmp_path / "train.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    options = ["--parts", "layer1", "--input-shape", "1,8,8", "--data", "train.npz"]
    target = ["--model", f"{__name__}:bessel", "--out", "warm.safetensors"]
    monkeypatch.setattr(sys, "argv", ["edgemem", "warmup", "net.pt", *target, *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "no ONNX form" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"net.pt", "train.npz"}
