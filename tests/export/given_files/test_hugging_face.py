"""Networks of Hugging Face transformers, built from a small configuration."""

import numpy as np
import pytest
import torch

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices
from edgemem.models import Form, attach

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16],
        depths=[1, 1, 1],
        layer_type="basic",
        num_labels=5,
    )
    return transformers.ResNetForImageClassification(config)


def mobilenet():
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.125, min_depth=4, depth_divisible_by=4, image_size=64, num_labels=5
    )
    return transformers.MobileNetV2ForImageClassification(config)


CASES = {
    "ResNet": (resnet, ["resnet.encoder.stages.0", "resnet.encoder.stages[1:3]"]),
    "MobileNetV2": (mobilenet, ["mobilenet_v2.layer[0:3]", "mobilenet_v2.layer.8"]),
}


@pytest.fixture
def attached(lively, warmed):
    """name of a case -> the network, and an adaptive model of it"""

    def make(name):
        factory, parts = CASES[name]
        network, example = lively(factory()), torch.zeros(2, 3, 64, 64)
        return network, warmed(attach(network, parts, example, form=Form(groups=0)))

    return make


@pytest.mark.parametrize("name", CASES)
def test_parts_are_attached_and_the_zero_block_is_the_network(name, attached):
    network, model = attached(name)
    x = torch.rand(3, 3, 64, 64)
    zero = {name: torch.zeros_like(value) for name, value in model.block().items()}
    with torch.no_grad():
        expected = network(x).logits
        assert model.frozen_logits(x).equal(expected)
        found = torch.func.functional_call(model, zero, (x,)).logits
        assert not model(x).logits.allclose(expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(list(model.meta_networks())) == 2


def test_a_hugging_face_network_goes_all_the_way_to_the_runtime(attached, exported):
    network, model = attached("ResNet")
    bundle = exported(network, model, Choices(4, "meta", "all", "ecotta"))
    x = np.random.default_rng(0).random((8, 3, 64, 64), np.float32)
    with edgemem.open(bundle.path, hyper_parameters={"entropy_margin": 9.0}, threads=1) as runtime:
        runtime.step(x)
        assert runtime.counters["updates"] == 2
        found = runtime.predict(x, frozen=True).logits
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert len(open_bundle(bundle.path).manifest.labels) == 5
