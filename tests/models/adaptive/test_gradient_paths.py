"""The two gradient paths, against a network of two parts that is written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemem.models import attach
from edgemem.models.adaptive.meta_network import EPS

ALPHA = torch.tensor(0.4)


class TwoParts(nn.Module):
    """norm, two strided convolutions (the parts), linear classifier."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.one = nn.Conv2d(2, 3, 3, 1, 1)
        self.two = nn.Conv2d(3, 4, 3, 2, 1)
        self.classifier = nn.Linear(4, 5)

    def forward(self, x):
        return self.classifier(self.two(self.one(self.norm(x)).relu()).mean((2, 3)))


@pytest.fixture
def model(lively, warmed):
    return warmed(attach(lively(TwoParts()), ["one", "two"], torch.zeros(2, 2, 6, 6)))


@pytest.fixture
def x():
    return torch.randn(7, 2, 6, 6, generator=torch.Generator().manual_seed(2))


def mixed_norm(x, mean, var):
    """Normalise with the moments mixed by ALPHA."""
    batch_mean, batch_var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    mean, var = mean + ALPHA * (batch_mean - mean), var + ALPHA * (batch_var - var)
    return (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + EPS).sqrt()


def meta_by_hand(block, buffers, name, stride, u_in, x):
    def array(key):
        value = block.get(f"meta.{name}.{key}", buffers.get(f"meta.{name}.{key}"))
        return value if value.dim() == 4 else value.view(1, -1, 1, 1)

    flat = {key: array(f"output_norm.{key}").flatten() for key in ("mean", "var")}
    y = mixed_norm(x, **flat) * (1 + array("output_norm.scale_delta")) + array("output_norm.shift")
    aligned = y * (array("output_norm.var") + EPS).sqrt() + array("output_norm.mean")
    flat = {key: array(f"branch_norm.{key}").flatten() for key in ("mean", "var")}
    z = mixed_norm(F.conv2d(u_in, array("convolution.weight"), None, stride, 1), **flat)
    return aligned + (z * array("branch_norm.weight") + array("branch_norm.bias")).relu()


def part_by_hand(part, x):
    """The frozen convolution without the hooks that attach a meta network to it."""
    return F.conv2d(x, part.weight, part.bias, part.stride, part.padding)


def by_hand(model, block, x, cut):
    """Logits and distances; `cut` is applied where the meta path has no gradient."""
    state, network = dict(model.named_buffers()), model.frozen
    norm = network.norm
    u0 = mixed_norm(x, norm.mean, norm.var) * norm.weight.view(1, -1, 1, 1)
    u0 = u0 + norm.bias.view(1, -1, 1, 1)
    x1 = cut(part_by_hand(network.one, cut(u0)))
    u1 = meta_by_hand(block, state, "one", 1, u0, x1)
    x2 = cut(part_by_hand(network.two, cut(u1.relu())))
    u2 = meta_by_hand(block, state, "two", 2, u1.relu(), x2)
    distances = [(u1 - x1.detach()).abs().mean(), (u2 - x2.detach()).abs().mean()]
    return network.classifier(u2.mean((2, 3))), distances


def loss(logits, distances, weight):
    p = logits.softmax(1)
    return -(p * logits.log_softmax(1)).sum(1).mean() + weight * sum(distances)


def gradients(model, x, gradient, weight):
    model.gradient = gradient
    output = model(x, ALPHA)
    block = model.block()
    grads = torch.autograd.grad(
        loss(output.logits, output.distances, weight), list(block.values()), allow_unused=True
    )
    return dict(zip(block, grads, strict=True)), output


@pytest.mark.parametrize("weight", [0.0, 0.25])
@pytest.mark.parametrize(
    ("gradient", "cut"), [("full", lambda t: t), ("meta", lambda t: t.detach())]
)
def test_gradients_equal_those_of_the_network_written_out(model, x, gradient, cut, weight):
    found, output = gradients(model, x, gradient, weight)
    block = {name: value.detach().requires_grad_() for name, value in model.block().items()}
    logits, distances = by_hand(model, block, x, cut)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(list(output.distances), distances, rtol=1e-4, atol=1e-6)
    expected = torch.autograd.grad(loss(logits, distances, weight), list(block.values()))
    for name, theirs in zip(block, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(found[name], theirs, rtol=1e-3, atol=1e-6, msg=name)


def test_the_paths_differ_for_earlier_meta_networks_and_agree_for_the_last(model, x):
    (full, output), (meta, same) = (gradients(model, x, g, 0.0) for g in ("full", "meta"))
    assert output.logits.equal(same.logits)
    for name in full:
        if name.startswith("meta.two"):
            torch.testing.assert_close(full[name], meta[name])
        else:
            assert not full[name].allclose(meta[name], rtol=1e-2)


def test_on_the_meta_path_only_the_branch_of_the_next_part_passes_a_gradient_on(model, x):
    """With that branch silent, nothing of the entropy reaches the first meta network."""
    with torch.no_grad():
        model.meta["two"].branch_norm.weight.zero_()
        model.meta["two"].branch_norm.bias.fill_(-1.0)
    full, _ = gradients(model, x, "full", 0.0)
    meta, _ = gradients(model, x, "meta", 0.0)
    assert all((meta[n] == 0).all() for n in meta if n.startswith("meta.one"))
    assert any((full[n] != 0).any() for n in full if n.startswith("meta.one"))


def test_distances_are_the_mean_absolute_change_of_each_part(model, x):
    seen = {}
    for name in ("one", "two"):
        part, meta = getattr(model.frozen, name), model.meta[name]
        meta.register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: (out - args[1]).abs().mean()})
        )
        assert part is not meta
    output = model(x, ALPHA)
    torch.testing.assert_close(list(output.distances), [seen["one"], seen["two"]])
