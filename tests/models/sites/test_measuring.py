"""Moments measured on source frames, beside those that torch finds where norms stand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgemem.errors import AttachError, InputError
from edgemem.models import attach, load_adaptive, save_adaptive
from edgemem.models.norms.frozen_norm import FrozenNorm
from edgemem.models.sites.measuring import measure_source

SHAPE = (3, 8, 8)


class Doubling(nn.BatchNorm2d):
    """Does more than its base class, so that it stays in the model."""

    def forward(self, x):
        return 2 * super().forward(x)


class Net(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.one, self.first = nn.Conv2d(3, 6, 3, padding=1), norm(6)
        self.two, self.second = nn.Conv2d(6, 6, 3, padding=1), norm(6)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(self.one(x)).relu()
        return self.classifier(self.second(self.two(x)).relu().mean((2, 3)))


class Tokens(nn.Module):
    """Attention over the rows of a picture, without any BatchNorm."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(24, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.classifier = nn.Linear(16, 4)

    def forward(self, x):
        x = self.embed(x.movedim(1, -1).flatten(2))
        y = self.norm(x)
        return self.classifier((x + self.attention(y, y, y)[0]).mean(1))


NETWORKS = {
    "replaced": (Net, ()),
    "in place": (lambda: Net(Doubling), ()),
    "convolutions": (lambda: Net(nn.Identity), ("one", "two")),
    "tokens": (Tokens, ("embed", "norm")),
}
everywhere = pytest.mark.parametrize("name", NETWORKS)


def frames(count=64, seed=0):
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


def adaptive(name, lively, **choices):
    build, sites = NETWORKS[name]
    torch.manual_seed(0)
    network = lively(build())
    x = torch.from_numpy(frames(4))
    choices = {"statistics": "remembered", "norm_affine": True} | choices
    return network, attach(network, [], x, sites=sites, **choices)


def answers(model, x, **settings):
    with torch.no_grad():
        return model(torch.from_numpy(x), **settings).logits


@everywhere
def test_at_rest_it_is_still_the_model_that_was_given(name, lively):
    network, model = adaptive(name, lively)
    measure_source(model, frames())
    other = frames(32, seed=1)
    with torch.no_grad():
        given = network(torch.from_numpy(other))
    torch.testing.assert_close(answers(model, other), given, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        answers(model, other, alpha=torch.tensor(0.0)), given, rtol=1e-4, atol=1e-4
    )


@everywhere
def test_source_frames_as_one_batch_are_answered_as_by_the_frozen_model(name, lively):
    network, model = adaptive(name, lively)
    x = frames()
    before = answers(model, x, alpha=torch.tensor(1.0))
    measure_source(model, x)
    with torch.no_grad():
        given = network(torch.from_numpy(x))
    found = answers(model, x, alpha=torch.tensor(1.0))
    torch.testing.assert_close(found, given, rtol=1e-3, atol=1e-3)
    if "replaced" in name:  # which the running statistics of training do not give
        assert (before - given).abs().max() > 0.1


def test_moments_are_those_that_torch_finds_at_the_input_of_each_norm(lively):
    network, model = adaptive("replaced", lively)
    seen = {}
    for layer in ("first", "second"):
        network.get_submodule(layer).register_forward_hook(
            lambda _, args, __, layer=layer: seen.update({layer: args[0].transpose(0, 1)})
        )
    x = frames(100)  # not a multiple of what is passed at once
    with torch.no_grad():
        network(torch.from_numpy(x))
    measure_source(model, x)
    for layer, seen_values in seen.items():
        norm = model.frozen.get_submodule(layer)
        assert isinstance(norm, FrozenNorm)
        values = seen_values.flatten(1)
        torch.testing.assert_close(norm.mean, values.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.var, values.var(1, correction=0), rtol=1e-4, atol=1e-5)


def test_the_given_model_keeps_its_own_arrays(lively):
    network, model = adaptive("replaced", lively)
    before = copy.deepcopy(network.state_dict())
    measure_source(model, frames())
    for held in (network.state_dict(), model.untouched.state_dict()):
        for name, value in before.items():
            assert torch.equal(held[name], value)


@everywhere
def test_a_checkpoint_brings_the_measured_moments_back(name, lively, tmp_path):
    network, model = adaptive(name, lively)
    measure_source(model, frames())
    save_adaptive(model, tmp_path / "m.safetensors", {})
    fresh, _ = load_adaptive(tmp_path / "m.safetensors", lively(NETWORKS[name][0](), seed=5))
    x, alpha = frames(16, seed=2), torch.tensor(0.8)
    assert torch.equal(answers(fresh, x, alpha=alpha), answers(model, x, alpha=alpha))
    assert fresh.attachment == model.attachment and fresh.attachment.measured
    with torch.no_grad():
        given = network(torch.from_numpy(x))
    torch.testing.assert_close(fresh.untouched_logits(torch.from_numpy(x)), given)


def test_a_deep_copy_has_sites_of_its_own(lively):
    _, model = adaptive("tokens", lively)
    measure_source(model, frames())
    other = copy.deepcopy(model)
    other.sites["embed"].take_moments(torch.full((16,), 5.0), torch.ones(16))
    x, alpha = frames(16), torch.tensor(1.0)
    assert not torch.equal(answers(other, x, alpha=alpha), answers(model, x, alpha=alpha))


def test_too_few_frames_are_refused_with_their_number(lively):
    _, model = adaptive("replaced", lively)
    with pytest.raises(InputError, match="are 31, too few .*Pass 32 or more"):
        measure_source(model, frames(31))


def test_a_site_that_is_none_is_refused_and_others_are_named(lively):
    torch.manual_seed(0)
    for wrong in ("classifier", "nothing", "attention"):
        with pytest.raises(AttachError, match=rf"site '{wrong}'.*embed, norm"):
            attach(Tokens().eval(), [], torch.from_numpy(frames(4)), sites=[wrong])
