"""Norms without source statistics: what adapts of them is their scales and shifts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import Recipe, attach, load_adaptive, save_adaptive, warm_up

SHAPE = (3, 8, 8)


class Last(nn.LayerNorm):
    """LayerNorm over channels that come first, as networks of images have it."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Root(nn.Module):
    """RMSNorm over channels that come first."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.RMSNorm(channels)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


NORMS = {
    "layer": Last,
    "group": lambda channels: nn.GroupNorm(2, channels),
    "root mean square": Root,
    "without shift": lambda channels: Last(channels, bias=False),
}
everywhere = pytest.mark.parametrize("name", NORMS)


class Net(nn.Module):
    def __init__(self, norm, other=None):
        super().__init__()
        self.classifier = nn.Linear(6, 4)
        self.one, self.first = nn.Conv2d(3, 6, 3, padding=1), norm(6)
        self.two, self.second = nn.Conv2d(6, 6, 3, padding=1), (other or norm)(6)

    def forward(self, x):
        x = self.first(self.one(x)).relu()
        return self.classifier(self.second(self.two(x)).relu().mean((2, 3)))


def build(name, other=None):
    torch.manual_seed(0)
    network = Net(NORMS[name], other).eval()
    for key, parameter in network.named_parameters():
        if "first" in key or "second" in key:
            nn.init.uniform_(parameter, 0.2, 1.3)
    return network


def frames(count):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(module, *arguments):
    return module(*arguments)


def inside(network, name):
    """A parameter of the network, by the name of its difference in the block."""
    path, kind = name.removesuffix("_delta").removeprefix("norms.").rsplit(".", 1)
    return network.get_submodule(path.replace("/", ".")).get_parameter(kind)


@everywhere
def test_at_rest_it_is_the_network_bit_for_bit(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(6)
    assert run(model, x).logits.equal(run(network, x))
    assert run(model, x).key.shape == (0,)
    assert model.alpha(16) is None
    assert all((value == 0).all() for value in model.block().values())


@everywhere
def test_the_block_is_added_to_the_pairs_and_gets_their_gradients(name):
    network = build(name).requires_grad_(True)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    assert len(model.block()) == (4 if name in ("layer", "group") else 2)
    x, generator = frames(6), torch.Generator().manual_seed(1)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for key, value in model.block().items():
            value.copy_(0.3 * torch.randn(6, generator=generator))
            inside(other, key).add_(value)
    found, expected = model(x).logits, other(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slopes = torch.autograd.grad(found.logsumexp(1).sum(), list(model.block().values()))
    theirs = [inside(other, key) for key in model.block()]
    wanted = torch.autograd.grad(expected.logsumexp(1).sum(), theirs)
    for slope, want in zip(slopes, wanted, strict=True):
        assert want.abs().max() > 0
        torch.testing.assert_close(slope, want, rtol=1e-4, atol=1e-5)
    assert model.frozen_logits(x).equal(run(network, x))


def test_pairs_stay_frozen_unless_asked():
    model = attach(build("layer"), [], torch.zeros(2, *SHAPE))
    assert not model.block()
    model.add_norm_affine()
    assert len(model.block()) == 4


def test_beside_batch_norm_the_pairs_after_the_key_adapt():
    """A pair before the key would move the key."""
    network = build("group", nn.BatchNorm2d)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    assert {name.rsplit(".", 1)[0] for name in model.block()} == {"frozen.second"}

    torch.manual_seed(0)
    network = Net(nn.BatchNorm2d, NORMS["layer"]).eval()
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    found = {name.rsplit(".", 1)[0] for name in model.block()}
    assert found == {"frozen.first", "norms.second"}
    assert model.key_norm is model.frozen.first
    x = frames(6)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)


def test_what_a_batch_norm_would_be_needed_for_is_refused():
    with pytest.raises(AttachError, match="has nothing to remember"):
        attach(build("layer"), [], torch.zeros(2, *SHAPE), statistics="remembered")
    with pytest.raises(AttachError, match="by whose input contexts are told apart") as caught:
        attach(build("layer"), ["two"], torch.zeros(2, *SHAPE), statistics="remembered")
    assert caught.value.remedy == "Name sites, or use statistics mix"


def test_parts_may_be_warmed_up_without_a_key(tmp_path):
    network = build("layer")
    model = attach(network, ["two"], torch.zeros(2, *SHAPE), statistics="mix")
    warm_up(model, frames(64).numpy(), torch.arange(64).numpy() % 4, Recipe(1, 16))
    assert model.source_moments is None
    assert len(model.source_frames) == 64
    save_adaptive(model, tmp_path / "net.safetensors", {})
    again, _ = load_adaptive(tmp_path / "net.safetensors", Net(NORMS["layer"]))
    x = frames(6)
    assert run(again, x, torch.tensor(0.5)).logits.equal(run(model, x, torch.tensor(0.5)).logits)


def test_a_network_without_any_norm_is_refused_unless_a_part_is_named():
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    ).eval()
    with pytest.raises(AttachError, match="runs no BatchNorm, LayerNorm, GroupNorm or RMSNorm"):
        attach(network, [], torch.zeros(2, *SHAPE))
    padded = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *list(network)[1:]).eval()
    model = attach(padded, ["0"], torch.zeros(2, *SHAPE))
    x = frames(6)
    assert run(model, x).logits.equal(run(padded, x))
