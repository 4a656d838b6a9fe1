"""The model that adapts is, at rest, the model that was given, whatever its norms do besides."""

import copy

import pytest
import torch
from given_models import (
    NETWORKS,
    SHAPE,
    build,
    frames,
)

from edgemem.models import attach, load_adaptive, save_adaptive

everywhere = pytest.mark.parametrize("name", NETWORKS)


def by_batch(network, x):
    """The same network with every norm in training mode and nothing else."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            module.training = True
    with torch.no_grad():
        return network(x)


@torch.no_grad()
def run(module, *arguments):
    return module(*arguments)


@everywhere
def test_at_rest_it_is_the_network(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert model.frozen_logits(x).equal(run(network, x))
    assert model.untouched_logits(x).equal(run(network, x))


# Torch refuses the training mode of a synchronised norm on a CPU.
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"synchronised"}))
def test_with_the_batchs_statistics_it_is_the_network_in_training(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    expected = by_batch(network, x)
    assert not expected.allclose(run(network, x), atol=1e-2)
    shares = torch.full((8,), 1 / 8)
    for arguments in ((torch.tensor(1.0),), (torch.tensor(1.0), None, shares)):
        found = run(model, x, *arguments).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@everywhere
def test_what_the_block_adds_to_a_pair_is_added_where_the_network_uses_it(name):
    """For the two-layer networks: the same numbers written into the network's own pairs."""
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    assert len(model.block()) == 4
    assert {value.shape for value in model.block().values()} == {(6,)}
    x = frames(8)
    generator = torch.Generator().manual_seed(1)
    block = {k: 0.3 * torch.randn(6, generator=generator) for k in model.block()}
    with torch.no_grad():
        found = model.with_block(block, x).logits
    if name in ("plain", "calls torch", "calls super", "hook", "synchronised"):
        other = copy.deepcopy(network)
        with torch.no_grad():
            for key, value in block.items():
                layer = other.first if "first" in key else other.second
                (layer.weight if "weight" in key else layer.bias).add_(value)
        torch.testing.assert_close(found, run(other, x), rtol=1e-5, atol=1e-5)
    assert not found.allclose(run(model, x).logits, atol=1e-3)


@everywhere
def test_the_key_is_that_of_the_first_norms_input(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE))
    x = frames(8)
    y = run(network.one, x)
    eps = 0.1 if name == "positional" else 1e-5
    var = network.first.running_var + eps
    shift = (y.mean((0, 2, 3)) - network.first.running_mean) / var.sqrt()
    scale = 0.5 * ((y.var((0, 2, 3), unbiased=False) + eps) / var).log()
    torch.testing.assert_close(run(model, x).key, torch.cat([shift, scale]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "calls torch", "arrays of its own"])
def test_a_checkpoint_brings_the_weights_to_all_of_it(name, tmp_path):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    model.source_frames = (255 * frames(5)).byte()
    save_adaptive(model, tmp_path / "net.safetensors", {})
    again, _ = load_adaptive(tmp_path / "net.safetensors", NETWORKS[name]())
    x = frames(8)
    assert again.untouched_logits(x).equal(run(network, x))
    assert run(again, x, torch.tensor(0.5)).logits.equal(run(model, x, torch.tensor(0.5)).logits)
    assert again.source_frames.equal(model.source_frames)


@pytest.mark.parametrize("name", ["plain", "calls super"])
def test_a_deep_copy_has_an_untouched_model_of_its_own(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.add_(1)
        for parameter in twin.untouched.parameters():
            parameter.mul_(1.5)
    assert model.untouched_logits(x).equal(run(network, x))
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert not twin.untouched_logits(x).allclose(run(network, x), atol=1e-2)


def test_the_untouched_model_takes_no_memory_of_its_own():
    model = attach(build("plain"), [], torch.zeros(2, *SHAPE))
    own = {value.data_ptr() for value in model.state_dict().values()}
    kept = [v for n, v in model.untouched.state_dict().items() if "num_batches" not in n]
    assert {value.data_ptr() for value in kept} <= own
    assert not any("untouched" in name for name in model.state_dict())


def test_in_training_mode_the_frozen_model_stays_itself():
    network = build("calls torch")
    model = attach(network, [], torch.zeros(2, *SHAPE)).train()
    x = frames(8)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
