"""`predict` and `adapt` as torch functions, before any tracing."""

import copy
import math

import pytest
import torch

from edgemem.export.functions.objective import ecotta, entropies, tent
from edgemem.export.functions.optimizer import adam, sgd
from edgemem.export.functions.predict_adapt import (
    adapt_function,
    hyper_parameters,
    predict_function,
)
from edgemem.models import attach
from edgemem.models.networks.cifar_resnet import CifarResNet
from edgemem.models.networks.digits import Digits

CLASSES, BATCH = 10, 8


@pytest.fixture(scope="module")
def model(lively, warmed):
    network = lively(Digits(width=4))
    return warmed(attach(network, ["layer1", "layer2"], torch.zeros(2, 1, 8, 8)))


def frames(seed, *shape):
    return torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(seed))


def call(function, inputs):
    values = function.call(*(inputs[name] for name in function.inputs))
    return dict(zip(function.outputs, values, strict=True))


def following(outputs):
    return {k.removeprefix("next."): v for k, v in outputs.items() if k.startswith("next.")}


def plain_step(model, x, alpha, optimizer, margin=math.inf):
    """One step of EcoTTA with autograd and torch.optim on the model's own parameters."""
    output = model(x, alpha)
    entropy = entropies(output.logits)
    loss = entropy[entropy < margin].mean() + 0.25 * sum(output.distances)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def ensemble(model, source, share=0.01):
    """Weight ensembling with the model that was exported."""
    with torch.no_grad():
        pairs = zip(model.learned().values(), source.learned().values(), strict=True)
        for parameter, value in pairs:
            parameter.lerp_(value, share)


def twin(model):
    """An adaptive model with the same arrays (hooks forbid a deep copy)."""
    a = model.attachment
    other = attach(
        a_network(model), a.parts, torch.zeros(2, *a.input_shape), norm_affine=a.norm_affine
    )
    other.load_state_dict(model.state_dict())
    other.mark_warm()
    return other


def a_network(model):
    """An architecture to attach to; its arrays are replaced at once."""
    return CifarResNet(1) if model.attachment.input_shape[0] == 3 else Digits(width=4)


@pytest.mark.parametrize("gradient", ["full", "meta"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(0.05), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        (adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    ],
    ids=["sgd", "adam"],
)
def test_consecutive_steps_equal_a_plain_torch_loop(model, gradient, ours, theirs):
    function = adapt_function(model, frames(0, 1, 8, 8), ecotta(CLASSES), ours, gradient)
    inputs, alpha = dict(function.inputs), function.inputs["hp.alpha"]
    reference = twin(model)
    reference.gradient = gradient
    optimizer = theirs(reference.block().values())
    for seed in range(5):
        inputs["x"] = x = frames(seed, 1, 8, 8)
        before = reference(x, alpha).logits.detach()
        inputs["hp.entropy_margin"] = entropies(before).quantile(0.5)  # half are reliable
        plain_step(reference, x, alpha, optimizer, inputs["hp.entropy_margin"])
        ensemble(reference, model)
        outputs = call(function, inputs)
        assert outputs["stat.reliable"] == 0.5
        torch.testing.assert_close(outputs["logits"], before, rtol=1e-5, atol=1e-5)
        inputs |= following(outputs)
    for name, parameter in reference.block().items():
        expected = parameter.detach()
        torch.testing.assert_close(inputs[f"block.{name}"], expected, rtol=1e-4, atol=1e-5)


def test_the_affine_pairs_learn_as_in_plain_torch(lively, warmed):
    network = lively(CifarResNet(1))
    example = torch.zeros(2, 3, 32, 32)
    model = warmed(attach(network, ["layer1", "layer3"], example, norm_affine=True))
    x = frames(0, 3, 32, 32)
    function = adapt_function(model, x, ecotta(CLASSES), sgd(0.05), "full")
    exercise = {"hp.entropy_margin": torch.tensor(9.0)}
    outputs = call(function, function.inputs | exercise)
    reference = twin(model)
    optimizer = torch.optim.SGD(reference.block().values(), 0.05)
    plain_step(reference, x, function.inputs["hp.alpha"], optimizer)
    ensemble(reference, model)
    moved = {name for name, p in reference.block().items() if not p.equal(model.block()[name])}
    assert any(name.startswith("frozen.bn1") for name in moved)
    for name, parameter in reference.block().items():
        torch.testing.assert_close(outputs[f"next.block.{name}"], parameter.detach())


def test_without_a_reliable_sample_block_and_slots_stay_bit_for_bit(model):
    x = frames(0, 1, 8, 8)
    function = adapt_function(model, x, ecotta(CLASSES), sgd(0.05), "full")
    inputs = dict(function.inputs) | {"hp.entropy_margin": torch.tensor(9.0)}
    inputs |= following(call(function, inputs))  # so that the momentum is not zero
    assert any((v != 0).any() for k, v in inputs.items() if k.startswith("opt."))
    outputs = call(function, inputs | {"hp.entropy_margin": torch.tensor(0.0)})
    assert outputs["stat.updated"] == 0
    assert outputs["stat.loss"].isfinite()
    for name, value in following(outputs).items():
        assert value.equal(inputs[name]), name


def test_a_full_share_of_the_source_brings_its_values_back(model):
    function = adapt_function(model, frames(0, 1, 8, 8), tent(CLASSES), sgd(1.0), "full")
    inputs = dict(function.inputs) | {"hp.source_share": torch.tensor(0.0)}
    inputs |= following(call(function, inputs))
    learned = [f"block.{name}" for name in model.learned()]
    assert any(not inputs[name].equal(function.inputs[name]) for name in learned)
    back = call(function, inputs | {"hp.source_share": torch.tensor(1.0)})
    for name in learned:
        torch.testing.assert_close(back[f"next.{name}"], function.inputs[name])


def test_adapt_returns_the_logits_from_before_its_update(model):
    x = frames(3, 1, 8, 8)
    adapt = adapt_function(model, x, tent(CLASSES), sgd(1.0), "full")
    predict = predict_function(model, x)
    before = call(adapt, adapt.inputs)
    assert before["logits"].equal(call(predict, predict.inputs)["logits"])
    after = call(predict, predict.inputs | following(before) | {"x": x})
    assert not after["logits"].equal(before["logits"])


def test_a_step_leaves_the_torch_model_as_it_was(model):
    state = copy.deepcopy(model.state_dict())
    adapt = adapt_function(model, frames(3, 1, 8, 8), tent(CLASSES), sgd(1.0), "meta")
    call(adapt, adapt.inputs)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert model.gradient == "full"


@pytest.mark.parametrize(("count", "share"), [(2, 2 / 18 * 24 / 8), (8, 1.0), (20, 1.0)])
def test_predict_weighs_the_batch_statistics_by_the_number_of_frames(model, count, share):
    predict = predict_function(model, frames(0, 1, 8, 8))
    x = torch.rand(count, 1, 8, 8)
    outputs = call(predict, predict.inputs | {"x": x, "hp.alpha": torch.tensor(0.6)})
    with torch.no_grad():
        expected = model(x, torch.tensor(0.6 * share))
    torch.testing.assert_close(outputs["logits"], expected.logits)
    torch.testing.assert_close(outputs["key"], expected.key)


def test_names_follow_the_graph_contract(model):
    function = adapt_function(model, frames(0, 1, 8, 8), ecotta(CLASSES), adam(0.1), "full")
    block = [f"block.{name}" for name in model.block()]
    slots = [name for name in function.inputs if name.startswith("opt.")]
    assert [name for name in function.inputs if name.startswith("block.")] == block
    assert list(function.outputs[:2]) == ["logits", "key"]
    assert [n for n in function.outputs if n.startswith("next.")] == [
        f"next.{name}" for name in (*block, *slots)
    ]
    scalars = {n.removeprefix("hp.") for n in function.inputs if n.startswith("hp.")}
    assert scalars == set(hyper_parameters(model, BATCH, ecotta(CLASSES), adam(0.1)))
    assert {"stat.loss", "stat.updated", "stat.reliable"} <= set(function.outputs)


def test_source_statistics_leave_no_weight_to_set(lively):
    network = lively(Digits(width=4))
    source = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8), statistics="source")
    assert "alpha" not in hyper_parameters(source, BATCH, tent(CLASSES), sgd(0.1))
    assert "hp.alpha" not in predict_function(source, frames(0, 1, 8, 8)).inputs
