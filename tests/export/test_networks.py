"""Exports of the kinds of networks that must work; each is checked against torch on the way."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices
from edgemem.export.functions.objective import entropies
from edgemem.models import Form, Normalization, attach
from edgemem.models.networks.cifar_resnet import CifarResNet
from edgemem.models.networks.conv1d import conv1d
from edgemem.models.networks.depthwise import Depthwise, InvertedResidual

pytestmark = pytest.mark.slow


class Zoo(nn.Module):
    """Strides, dilations, groups, even kernels and every pooling, small enough to trace fast."""

    input_shape = (2, 13, 11)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.second = nn.Sequential(
            nn.Conv2d(8, 8, 3, (2, 1), padding=2, dilation=2, groups=4),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.GroupNorm(4, 8),
            nn.GELU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(8, 12, 1, 2),
            nn.BatchNorm2d(12, affine=False),
            nn.Mish(),
            nn.AvgPool2d(2, 1),
        )
        self.last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3))
        self.classifier = nn.Linear(12, 4)

    def forward(self, x):
        return self.classifier(self.last(self.second(self.first(x))))


def small_depthwise():
    network = Depthwise()
    network.features = nn.Sequential(InvertedResidual(16, 16, 1, 2), InvertedResidual(16, 32, 2, 2))
    return network


CASES = {
    "conv1d, adam, batch statistics": (
        conv1d,
        ["blocks.0", "blocks[1:3]"],
        {"statistics": "batch", "form": Form(kernel_size=5)},
        Choices(4, "meta", "all", "ecotta", optimizer="adam"),
    ),
    "depthwise, full, bottleneck": (
        small_depthwise,
        ["features"],
        {"form": Form(bottleneck=4), "normalization": Normalization((0.5,), (0.25,))},
        Choices(4, "full", "all", "ecotta"),
    ),
    "every geometry, full, affine pairs": (
        Zoo,
        ["first"],
        {"form": Form(groups=0), "norm_affine": True, "statistics": 0.7},
        Choices(4, "full", "all", "ecotta"),
    ),
    "residual, source statistics": (
        lambda: CifarResNet(1),
        ["layer2", "layer3"],
        {"statistics": "source", "form": Form(bottleneck=4)},
        Choices(4, "full", "all", "ecotta"),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, lively, warmed, exported):
    factory, parts, options, choices = CASES[request.param]
    network = lively(factory())
    model = warmed(attach(network, parts, torch.zeros(2, *network.input_shape), **options))
    return exported(network, model, choices)


def frames(case, count):
    shape = case.model.attachment.input_shape
    return np.random.default_rng(count).random((count, *shape), np.float32)


def test_a_bundle_answers_as_the_frozen_network_and_learns(case, tmp_path):
    """Exporting has compared every output with torch; this looks again, through the runtime."""
    x = frames(case, 20)
    hyper_parameters = {"entropy_margin": 9.0}
    state = tmp_path / "state.db"
    with edgemem.open(case.path, state, hyper_parameters=hyper_parameters, threads=1) as runtime:
        result = runtime.step(x)
        assert runtime.counters["updates"] == 5
        found = runtime.predict(x, frozen=True).logits
        later = runtime.predict(x).logits
    normalization = case.model.attachment.normalization
    plain = torch.from_numpy(x if normalization is None else (x - 0.5) / 0.25)
    with torch.no_grad():
        expected = case.network(plain).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(result.logits).all()
    assert (later != result.logits).any()
    with edgemem.open(case.path, state, hyper_parameters=hyper_parameters, threads=1) as runtime:
        assert (runtime.predict(x).logits == later).all()


def test_gradients_equal_those_of_autograd_relative_to_their_own_size(case):
    """Small gradients count too: the parity check of the export is absolute."""
    opened = open_bundle(case.path)
    manifest, model = opened.manifest, case.model
    x = frames(case, manifest.frames.batch)
    values = {f"block.{n}": a for n, a in opened.generic.items()}
    values |= {f"opt.{n}": a for n, a in manifest.slots.zero().items()}
    for name, hp in manifest.hyper_parameters.items():
        value = 9.0 if name == "entropy_margin" else hp.default
        values[f"hp.{name}"] = np.asarray(value, np.float32)
    session = onnxruntime.InferenceSession(str(case.path / "adapt.onnx"))
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, values | {"x": x}), strict=True))

    alpha = model.alpha(len(x))
    model.gradient = manifest.exported_from["gradient"]
    output = model(torch.from_numpy(x), None if alpha is None else torch.tensor(alpha))
    model.gradient = "full"
    loss = entropies(output.logits).mean() + 0.25 * sum(output.distances)
    grads = torch.autograd.grad(loss, list(model.block().values()))
    adam = manifest.exported_from["optimizer"] == "adam"
    for name, grad in zip(model.block(), grads, strict=True):
        mine = found[f"next.opt.{'first' if adam else 'momentum'}.{name}"] * (10 if adam else 1)
        limit = 1e-3 * grad.abs().max().item()
        assert limit > 0, name
        np.testing.assert_allclose(mine, grad.numpy(), rtol=0, atol=limit, err_msg=name)


def test_source_statistics_are_fixed_and_others_the_device_may_weigh(case):
    manifest = open_bundle(case.path).manifest
    chosen = case.model.attachment.statistics
    assert manifest.frames.companions == (chosen != "source")
    defaults = {"batch": 1.0, 0.7: pytest.approx(0.7), "mix": pytest.approx(4 / 20)}
    assert ("alpha" in manifest.hyper_parameters) == (chosen != "source")
    if chosen != "source":
        assert manifest.hyper_parameters["alpha"].default == defaults[chosen]


def test_an_export_without_warm_up_leaves_the_silent_branches_out(lively, exported):
    network = lively(CifarResNet(1))
    model = attach(network, ["layer1", "layer2", "layer3"], torch.zeros(2, 3, 32, 32))
    names, state = list(model.block()), {k: v.clone() for k, v in model.state_dict().items()}
    bundle = exported(network, model, Choices(4, "meta", "all", "ecotta"))
    manifest = open_bundle(bundle.path).manifest
    assert [spec.name for spec in manifest.block.arrays] == [
        f"meta.layer{i}.output_norm.{array}"
        for i in (1, 2, 3)
        for array in ("scale_delta", "shift")
    ]
    assert manifest.exported_from["warm"] is False
    x = np.random.default_rng(0).random((8, 3, 32, 32), np.float32)
    with edgemem.open(bundle.path, hyper_parameters={"entropy_margin": 9.0}, threads=1) as runtime:
        first = runtime.predict(x).logits
        runtime.step(x)
        assert runtime.counters["updates"] == 2
        assert (runtime.predict(x).logits != first).any()
    # The model itself still has its branches, and can be warmed up now.
    assert list(model.block()) == names
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
