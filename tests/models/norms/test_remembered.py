"""Networks whose norms remember: what they compute, keep, copy and save."""

import copy

import numpy as np
import pytest
import torch
from remembered_norms import BATCH, CLASSES, close, frames, zero
from torch import nn
from torch.func import functional_call

from edgemem.export.functions.objective import ecotta
from edgemem.export.functions.optimizer import sgd
from edgemem.export.functions.predict_adapt import adapt_function, predict_function
from edgemem.models import attach, load_adaptive, save_adaptive, warm_up
from edgemem.models.adaptive.attachment import REMEMBERED_ALPHA
from edgemem.models.networks import conv1d, digits, resnet20
from edgemem.models.networks.digits import Digits
from edgemem.models.norms.remembered import (
    CLASS_PRIOR,
    EVENNESS,
    FRAMES,
    MEAN,
    VAR,
)
from edgemem.models.warmup.warm_up_recipe import Recipe

NETWORKS = {
    "digits": (digits, ["layer1", "layer2"]),
    "resnet20": (resnet20, ["layer1", "layer2", "layer3[0:2]"]),
    "conv1d": (conv1d, ["stem", "blocks.0", "blocks[1:3]"]),
}
everywhere = pytest.mark.parametrize("name", NETWORKS)


def build(name, lively, statistics="remembered"):
    factory, parts = NETWORKS[name]
    network = lively(factory())
    return network, attach(network, parts, frames(network, 2), statistics=statistics)


def fill(model, seed=3):
    """Let the model remember something that moments can be."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.remembered().items():
        value.copy_(0.2 * torch.rand(value.shape, generator=generator))
        if name == CLASS_PRIOR:
            value.sub_(value.mean())
        if name == FRAMES:
            value.fill_(40.0)


def functions(model, x):
    adapt = adapt_function(model, x, ecotta(CLASSES), sgd(0.01), "meta")
    return predict_function(model, x), adapt


def call(function, **changes):
    inputs = function.inputs | changes
    values = function.call(*(inputs[name] for name in function.inputs))
    return dict(zip(function.outputs, values, strict=True))


@everywhere
def test_the_zero_block_with_zero_scalars_is_the_network(name, lively, warmed):
    network, model = build(name, lively)
    x = frames(network)
    with torch.no_grad():
        expected = network(x)
    limit = 1e-5 * max(1.0, expected.abs().max().item())
    warmed(model)
    fill(model)
    for function in functions(model, x):
        assert not call(function, x=x)["logits"].allclose(expected, atol=1e-2)
        scalars = {n: v for n, v in function.inputs.items() if n.startswith(("block.", "hp."))}
        found = call(function, x=x, **zero(scalars))["logits"]
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@everywhere
@pytest.mark.parametrize("count", [1, 3, BATCH, 20])
def test_while_nothing_is_remembered_the_batch_is_mixed_with_the_source(
    name, count, lively, warmed
):
    network, model = build(name, lively)
    _, plain = build(name, lively, statistics=REMEMBERED_ALPHA)
    warmed(plain)
    model.load_state_dict(plain.state_dict(), strict=False)
    model.mark_warm()
    x = frames(network, count, seed=4)
    one, other = (predict_function(m, frames(network)) for m in (model, plain))
    assert one.inputs["hp.alpha"].equal(other.inputs["hp.alpha"])
    expected = call(other, x=x)["logits"]
    size = max(1.0, expected.abs().max().item())
    alone = {"hp.label_order": torch.tensor(0.0)}
    found = call(one, x=x, **alone)["logits"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * size)


class OneNorm(nn.Module):
    """Shows the normalised frames themselves: their means are the logits."""

    input_shape = (3, 4, 4)

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x).mean((2, 3))


@pytest.mark.parametrize("count", [1, 5])
def test_source_remembered_and_present_moments_are_mixed_as_the_formula_says(count, lively):
    """Also for a call shorter than a batch: what is remembered stands in for the missing frames."""
    network = lively(OneNorm())
    x = 2.0 * torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = attach(network, [], x, statistics="remembered", norm_affine=True)
    fill(model)
    hp = {"alpha": 0.7, "least_batch_weight": 0.05, "even_batch_weight": 0.05}
    hp |= {"prior_weight": 0.0, "label_order": 0.0}
    scalars = {f"hp.{name}": torch.tensor(value) for name, value in hp.items()}
    found = call(predict_function(model, torch.zeros(BATCH, 3, 4, 4)), x=x, **scalars)["logits"]

    past = {name: value.double() for name, value in model.remembered().items()}
    share = max(0.05, count / (count + past[FRAMES].item()))
    norm, values = network.norm, x.double()
    moments = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
    mixed = []
    for kind, source, now in zip(
        (MEAN, VAR), (norm.running_mean, norm.running_var), moments, strict=True
    ):
        target = (1 - share) * (source + past[f"frozen.norm.{kind}"]) + share * now
        mixed.append((0.3 * source + 0.7 * target).view(1, 3, 1, 1))
    normalised = (values - mixed[0]) / (mixed[1] + norm.eps).sqrt()
    expected = normalised.mean((2, 3)) * norm.weight + norm.bias
    close(found, expected.detach())


@everywhere
def test_with_all_weight_on_the_batch_nothing_remembered_matters(name, lively, warmed):
    network, model = build(name, lively)
    warmed(model)
    fill(model)
    function = predict_function(model, frames(network))
    x = frames(network, seed=5)
    scalars = {"hp.least_batch_weight": torch.tensor(1.0), "hp.prior_weight": torch.tensor(0.0)}
    found = call(function, x=x, **scalars)["logits"]
    forgotten = {f"block.{n}": torch.zeros_like(v) for n, v in model.remembered().items()}
    expected = call(function, x=x, **forgotten)["logits"]
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * size)
    assert not call(function, x=x)["logits"].allclose(expected, atol=1e-2)


@everywhere
def test_an_attached_model_remembers_nothing_and_learns_only_what_it_learned_before(name, lively):
    _, model = build(name, lively)
    _, plain = build(name, lively, statistics="mix")
    arrays = model.remembered()
    assert {FRAMES, CLASS_PRIOR, EVENNESS} < set(arrays)
    assert all((value == 0).all() for value in arrays.values())
    assert not any(value.requires_grad for value in arrays.values())
    assert list(model.learned()) == list(plain.learned()) == list(plain.block())
    assert list(model.block()) == [*model.learned(), *arrays]
    assert plain.remembered() == {}


@everywhere
@pytest.mark.parametrize("warm", [False, True])
def test_every_norm_that_uses_moments_remembers_them_and_no_other(name, warm, lively, warmed):
    network, model = build(name, lively)
    if warm:
        warmed(model)
    output_norms = {n for n in model.remembered() if ".output_norm." in n}
    assert len(output_norms) == (2 * len(NETWORKS[name][1]) if warm else 0)
    with torch.no_grad():
        weight = torch.tensor(1.0)
        seen = functional_call(model, zero(model.block()), (frames(network), weight, weight)).seen
    kinds = {f"{norm}.{kind}" for norm in seen for kind in (MEAN, VAR)}
    assert kinds | {CLASS_PRIOR, FRAMES, EVENNESS} == set(model.remembered())
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len([n for n in seen if n.startswith("frozen.")]) == len(norms)


def test_a_forward_pass_alone_remembers_nothing(lively, warmed):
    network, model = build("digits", lively)
    warmed(model)
    fill(model)
    before = copy.deepcopy(model.state_dict())
    for function in functions(model, frames(network)):
        call(function, x=frames(network, seed=2))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_deep_copy_remembers_for_itself(lively, warmed):
    network, model = build("digits", lively)
    warmed(model)
    fill(model)
    x = frames(network)
    expected = call(predict_function(model, x), x=x)["logits"]
    twin = copy.deepcopy(model)
    assert call(predict_function(twin, x), x=x)["logits"].equal(expected)
    assert call(functions(twin, x)[1], x=x).keys() == call(functions(model, x)[1], x=x).keys()
    for value in twin.remembered().values():
        value.zero_()
    assert call(predict_function(model, x), x=x)["logits"].equal(expected)
    assert not call(predict_function(twin, x), x=x)["logits"].allclose(expected, atol=1e-2)


@pytest.mark.parametrize("warm", [False, True])
def test_a_checkpoint_brings_back_what_was_remembered(warm, lively, warmed, tmp_path):
    network = lively(Digits(width=4))
    model = attach(network, ["layer1"], frames(network), statistics="remembered")
    if warm:
        warmed(model)
    fill(model)
    save_adaptive(model, tmp_path / "net.safetensors", {})
    again, _ = load_adaptive(tmp_path / "net.safetensors", Digits(width=4))
    assert again.attachment == model.attachment
    assert again.warm == warm
    assert list(again.block()) == list(model.block())
    assert all(value.equal(model.block()[name]) for name, value in again.block().items())
    x = frames(network, 5)
    one, other = (call(predict_function(m, frames(network)), x=x) for m in (model, again))
    assert one["logits"].equal(other["logits"])


def test_warm_up_leaves_nothing_remembered(lively):
    network = lively(Digits(width=4))
    model = attach(network, ["layer1"], frames(network), statistics="remembered")
    labels = np.arange(32) % CLASSES
    warm_up(model, frames(network, 32).numpy(), labels, Recipe(epochs=1, batch_size=16))
    assert {name for name, value in model.remembered().items() if value.any()} == set()
