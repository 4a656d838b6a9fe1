"""Law 4: with the zero block and source statistics, an adaptive model is the frozen model."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from edgemem.models import Form, Normalization, attach
from edgemem.models.networks import conv1d, depthwise, digits, resnet20, resnet32, wrn40_2

NETWORKS = {
    "resnet20": (resnet20, ["layer1", "layer2", "layer3[0:2]"]),
    "resnet32": (resnet32, ["layer3[1:5]"]),
    "depthwise": (depthwise, ["features.1", "features[2:5]"]),
    "conv1d": (conv1d, ["stem", "blocks.0", "blocks[1:3]"]),
    "wrn40_2": (wrn40_2, ["block1", "block2[0:3]", "block2[3:6]", "block3"]),
    "digits": (digits, ["layer1", "layer2"]),
}
DEEP = ("resnet32", "wrn40_2")  # of the same layers as resnet20
everywhere = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEEP)) for n in NETWORKS]
)


def frames(network, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *network.input_shape, generator=generator)


def build(name, lively, **options):
    factory, parts = NETWORKS[name]
    network = lively(factory())
    return network, attach(network, parts, frames(network, 2), **options)


def zero(model):
    return {name: torch.zeros_like(value) for name, value in model.block().items()}


@torch.no_grad()
def run(module, *arguments):
    return module(*arguments)


@everywhere
@pytest.mark.parametrize("alpha", [None, torch.tensor(0.0)], ids=["source", "alpha 0"])
@pytest.mark.parametrize("affine", [False, True], ids=["", "affine"])
def test_the_zero_block_with_source_statistics_is_the_network(name, alpha, affine, lively, warmed):
    network, model = build(name, lively, norm_affine=affine)
    x = frames(network)
    expected = run(network, x)
    limit = 1e-5 * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(run(model, x, alpha).logits, expected, rtol=0, atol=limit)
    warmed(model)
    assert not run(model, x, alpha).logits.allclose(expected, atol=1e-2)
    with torch.no_grad():
        found = functional_call(model, zero(model), (x, alpha)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@everywhere
def test_an_attached_model_starts_at_the_zero_block(name, lively):
    _, model = build(name, lively, norm_affine=True)
    assert all((value == 0).all() for value in model.block().values())
    assert not model.warm


@everywhere
def test_meta_networks_at_zero_pass_their_input_on_bit_for_bit(name, lively, warmed):
    network, model = build(name, lively)
    x = frames(network)
    alone = run(attach(network, [], x), x).logits
    assert run(model, x).logits.equal(alone)
    with torch.no_grad():
        found = functional_call(warmed(model), zero(model), (x,)).logits
    assert found.equal(alone)


@everywhere
def test_frozen_logits_are_those_of_the_network_bit_for_bit(name, lively, warmed):
    network, model = build(name, lively)
    x = frames(network)
    assert warmed(model).frozen_logits(x).equal(run(network, x))
    run(model, x, torch.tensor(1.0))
    assert model.frozen_logits(x).equal(run(network, x))


@everywhere
def test_attaching_leaves_the_network_as_it_was(name, lively):
    factory, parts = NETWORKS[name]
    network = lively(factory()).train().requires_grad_(True)
    before = copy.deepcopy(network.state_dict())
    x = frames(network)
    model = attach(network, parts, x, norm_affine=True)
    model(x, torch.tensor(0.5)).logits.sum().backward()
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert {type(m) for m in network.modules()} == {type(m) for m in factory().modules()}


@everywhere
def test_batch_statistics_alone_are_batch_norm_in_training(name, lively):
    network, model = build(name, lively)
    x = frames(network, 16)
    reference = copy.deepcopy(network).train()
    expected = run(reference, x)
    found = run(model, x, torch.tensor(1.0)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.allclose(run(network, x), atol=1e-2)


@everywhere
def test_no_pass_moves_anything_but_through_an_optimizer(name, lively, warmed):
    """Frozen running statistics never move, in training mode neither."""
    network, model = build(name, lively)
    warmed(model).train()
    before = copy.deepcopy(model.state_dict())
    for alpha in (None, torch.tensor(0.3), torch.tensor(1.0)):
        model(frames(network, 8), alpha).logits.sum().backward()
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_frames_are_normalised_first(lively):
    network = lively(resnet20())
    x = frames(network)
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = attach(network, ["layer1"], x, normalization=Normalization(mean, deviation))
    per_channel = [torch.tensor(v).view(1, 3, 1, 1) for v in (mean, deviation)]
    expected = run(network, (x - per_channel[0]) / per_channel[1])
    assert model.frozen_logits(x).equal(expected)
    torch.testing.assert_close(run(model, x).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_norm_shared_by_two_layers_adapts_in_both(lively):
    """One BatchNorm under two names is one norm still, in the same module or another."""

    class Shared(nn.Module):
        input_shape = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.one, self.other = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
            self.first = self.second = nn.BatchNorm2d(3)
            self.third = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            y = self.second(self.other(self.first(self.one(x)).relu())).relu()
            return self.third(y).mean((2, 3))

    network = lively(Shared())
    x = frames(network, 32)
    model = attach(network, [], x, norm_affine=True)
    assert model.frozen_logits(x).equal(run(network, x))
    assert len(model.block()) == 4
    expected = run(copy.deepcopy(network).train(), x)
    found = run(model, x, torch.tensor(1.0)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@everywhere
def test_the_context_key_depends_on_frozen_layers_only(name, lively, warmed):
    network, model = build(name, lively, norm_affine=True)
    x = frames(network)
    before = run(model, x).key
    assert before.dim() == 1
    assert before.isfinite().all()
    for alpha in (None, torch.tensor(0.7)):
        assert run(warmed(model, seed=5), x, alpha).key.equal(before)
    assert not run(model, x * 0.5 + 0.3).key.allclose(before, atol=1e-2)


def test_the_key_is_the_shift_and_log_scale_of_the_first_norm(lively):
    network = lively(digits())
    x = frames(network, 9)
    y = run(network.stem[0], x)
    norm = network.stem[1]
    deviation = (norm.running_var + norm.eps).sqrt()
    shift = (y.mean((0, 2, 3)) - norm.running_mean) / deviation
    scale = ((y.var((0, 2, 3), unbiased=False) + norm.eps).sqrt() / deviation).log()
    found = run(attach(network, ["layer1"], x, form=Form(1)), x).key
    torch.testing.assert_close(found, torch.cat([shift, scale]), rtol=1e-4, atol=1e-5)


def test_a_deep_copy_runs_its_own_meta_networks(lively):
    network, model = build("digits", lively)
    x = frames(network)
    with torch.no_grad():
        before = model(x).logits
        twin = copy.deepcopy(model)
        for value in twin.block().values():
            value.normal_()
        assert (twin(x).logits != before).any()
        assert model(x).logits.equal(before)


@everywhere
def test_affine_pairs_may_join_the_block_later(name, lively):
    network, model = build(name, lively)
    _, expected = build(name, lively, norm_affine=True)
    x = frames(network)
    before = run(model, x).logits
    model.add_norm_affine()
    assert list(model.block()) == list(expected.block())
    assert model.attachment == expected.attachment
    assert run(model, x).logits.equal(before)
