"""What a block remembers of its context: moments, class prior, and what they do."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn
from torch.func import functional_call

from edgemem.export.functions.objective import ecotta
from edgemem.export.functions.optimizer import sgd
from edgemem.export.functions.predict_adapt import adapt_function, predict_function
from edgemem.models import attach, load_adaptive, save_adaptive, warm_up
from edgemem.models.adaptive.attachment import REMEMBERED_ALPHA
from edgemem.models.networks import conv1d, digits, resnet20
from edgemem.models.networks.digits import Digits
from edgemem.models.norms import remembered
from edgemem.models.norms.moments import FrameMoments, frame_moments
from edgemem.models.norms.remembered import (
    CLASS_PRIOR,
    EVENNESS,
    FLOOR,
    FRAMES,
    HYPER_PARAMETERS,
    MEAN,
    MOST_FRAMES,
    SOURCE_FRAMES,
    VAR,
    batch_weight,
    evenness,
    next_remembered,
    weighed,
)
from edgemem.models.warmup.warm_up_recipe import Recipe

SHAPES = {"1d": (7, 3, 11), "2d": (6, 4, 5, 3), "one frame": (1, 2, 4, 4), "bare": (9, 5, 1)}
NETWORKS = {
    "digits": (digits, ["layer1", "layer2"]),
    "resnet20": (resnet20, ["layer1", "layer2", "layer3[0:2]"]),
    "conv1d": (conv1d, ["stem", "blocks.0", "blocks[1:3]"]),
}
BATCH, CLASSES = 8, 10
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
everywhere = pytest.mark.parametrize("name", NETWORKS)


def hyper_parameters(**values):
    return {name: torch.tensor(value) for name, value in (HYPER_PARAMETERS | values).items()}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frames(network, count=BATCH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *network.input_shape, generator=generator)


def build(name, lively, statistics="remembered"):
    factory, parts = NETWORKS[name]
    network = lively(factory())
    return network, attach(network, parts, frames(network, 2), statistics=statistics)


def zero(arrays):
    return {name: torch.zeros_like(value) for name, value in arrays.items()}


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


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(found).double(),
        torch.as_tensor(expected).double(),
        rtol=tolerance,
        atol=tolerance,
    )


@shapes
def test_uniform_weights_give_mean_and_variance_of_the_whole_batch(shape):
    x = 2.0 * draw(*shape) + 1.0
    source_mean = draw(shape[1], seed=1)
    dims = [0, *range(2, len(shape))]
    weights = torch.full((shape[0],), 1.0 / shape[0])
    mean, var = frame_moments(x, source_mean).pooled(weights)
    close(mean, x.mean(dims) - source_mean)
    close(var, x.var(dims, unbiased=False))


@shapes
def test_weighted_moments_are_those_of_every_value_with_its_frames_weight(shape):
    x, source_mean = draw(*shape).numpy(), draw(shape[1], seed=1).numpy()
    weights = np.random.default_rng(2).random(shape[0])
    weights /= weights.sum()
    found = frame_moments(torch.tensor(x), torch.tensor(source_mean)).pooled(
        torch.tensor(weights, dtype=torch.float32)
    )
    for channel in range(shape[1]):
        values = x[:, channel].reshape(shape[0], -1).astype(np.float64)
        each = np.repeat(weights / values.shape[1], values.shape[1])
        mean = each @ values.ravel()
        var = each @ (values.ravel() - mean) ** 2
        close(found[0][channel], mean - source_mean[channel])
        close(found[1][channel], var)


@pytest.mark.parametrize("level", [0.0, 0.1, -3.7, 1e3, 1e-20])
def test_a_constant_channel_has_a_variance_of_zero_and_never_less(level):
    x = torch.full((13, 3, 5, 5), level)
    source_mean = torch.tensor([0.0, level, 0.3])
    for seed in range(5):
        weights = draw(13, seed=seed).softmax(0)
        var = frame_moments(x, source_mean).pooled(weights)[1]
        assert (var >= 0).all()
        assert (var <= 1e-5 * max(level**2, 1.0)).all()
        assert var[1] == 0  # at the source mean


@pytest.mark.parametrize("count", [1.0, 8.0, 64.0])
def test_the_first_batch_counts_alone_and_later_ones_as_their_share_down_to_the_least(count):
    hp = hyper_parameters(least_batch_weight=0.2)
    past = torch.tensor([0.0, 1.0, 8.0, 20.0, 100.0, 1e4, MOST_FRAMES])
    found = batch_weight(torch.tensor(count), {FRAMES: past, EVENNESS: torch.tensor(0.0)}, hp)
    assert found[0] == 1.0
    assert found[-1] == hp["least_batch_weight"]
    assert (found.diff() <= 0).all()
    close(found, [max(0.2, count / (count + p)) for p in past.tolist()])


def test_the_least_weight_rises_with_the_evenness_of_past_batches():
    held = torch.tensor([0.0, 0.5, 0.9, 1.0])
    memory = {FRAMES: torch.tensor(1e5), EVENNESS: held}
    found = batch_weight(
        torch.tensor(8.0), memory, hyper_parameters(least_batch_weight=0.2, even_batch_weight=0.7)
    )
    close(found, 0.2 + 0.5 * held.numpy().astype(np.float64) ** 8)
    high = hyper_parameters(least_batch_weight=0.8, even_batch_weight=0.7)
    assert (batch_weight(torch.tensor(8.0), memory, high) == high["least_batch_weight"]).all()


@pytest.mark.parametrize(("classes", "frames"), [(2, 16), (10, 16), (10, 64), (100, 64)])
def test_evenness_is_one_for_balanced_draws_and_near_zero_for_one_class(classes, frames):
    drawn = np.random.default_rng(0).integers(classes, size=(200, frames))
    share = np.stack([np.bincount(d, minlength=classes) / frames for d in drawn])
    found = [evenness(torch.tensor(s, dtype=torch.float32), frames).item() for s in share]
    assert 0.85 < np.mean(found) <= 1.0
    assert abs(evenness(torch.eye(classes)[0], frames).item()) < 1e-5
    few = max(classes // 5, 1)
    assert evenness(torch.eye(classes)[:few].mean(0), frames) < 0.5


@pytest.mark.parametrize(("classes", "frames"), [(2, 1), (10, 1), (1000, 8)])
def test_evenness_is_finite_and_at_most_one_where_frames_are_fewer_than_classes(classes, frames):
    for mean in (torch.full((classes,), 1 / classes), torch.eye(classes)[0]):
        assert 0.0 <= evenness(mean, frames).item() + 1e-5 <= 1.0 + 1e-5


def test_no_remembered_prior_leaves_logits_bit_for_bit():
    logits = 30.0 * draw(50, CLASSES)
    for weight in (0.0, 1.0, 1.5):
        hp = hyper_parameters(prior_weight=weight)
        assert weighed(logits, torch.zeros(CLASSES), hp).equal(logits)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("prior", [(0.7, 0.2, 0.1, 0.0), (0.3, 0.28, 0.22, 0.2), (0.25,) * 4])
def test_the_prior_multiplies_the_probabilities_unless_it_is_even(weight, prior):
    logits, prior = 3.0 * draw(20, 4), np.array(prior)
    found = weighed(
        logits,
        torch.tensor(prior - 0.25, dtype=torch.float32),
        hyper_parameters(prior_weight=weight),
    )
    weight *= 1 - (np.exp(entropy(prior)) / 4) ** 32
    expected = np.exp(logits.numpy().astype(np.float64)) * (prior + FLOOR) ** weight
    close(found.softmax(1), expected / expected.sum(1, keepdims=True))


def test_a_class_that_was_never_seen_is_still_predicted_when_the_network_is_sure():
    logits = torch.tensor([[0.0, 12.0]])
    prior = torch.tensor([0.5, -0.5])  # the first class only
    assert weighed(logits, prior, hyper_parameters()).argmax() == 1


def brute_force(old, values, source_mean, source_var, logits, hp):
    """`next_remembered` frame by frame in float64. values: [n, channels, positions]."""
    n, classes = logits.shape
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    share = [sum(probabilities[i, c] for i in range(n)) / n for c in range(classes)]
    weights = [sum(p[c] / (share[c] + FLOOR) for c in range(classes)) for p in probabilities]
    weights = [w / sum(weights) for w in weights]
    channels, positions = values.shape[1:]
    mean, var = np.zeros(channels), np.zeros(channels)
    for k in range(channels):
        for i in range(n):
            mean[k] += weights[i] * values[i, k].sum() / positions
        for i in range(n):
            var[k] += weights[i] * ((values[i, k] - mean[k]) ** 2).sum() / positions
    total = old[FRAMES] + n
    rate = max(hp["memory_rate"], n / (total + SOURCE_FRAMES))
    now = {"norm." + MEAN: mean - source_mean, "norm." + VAR: var - source_var}
    new = {name: (1 - rate) * old[name] + rate * value for name, value in now.items()}
    slow = min(rate, 0.5)
    new[CLASS_PRIOR] = (1 - slow) * old[CLASS_PRIOR] + slow * (np.array(share) - 1 / classes)
    new[FRAMES] = min(total, MOST_FRAMES)
    stand_for = np.exp(-sum(s * np.log(s) for s in share))
    drawn = np.exp(max(np.log(classes) - (classes - 1) / (2 * n), 0.0))
    even = min((stand_for - 1) / max(drawn - 1, 1.0), 1.0)
    new[EVENNESS] = min(even, (1 - rate) * old[EVENNESS] + rate * even)
    return new


@pytest.mark.parametrize("count", [1, 8, 100])
@pytest.mark.parametrize("past", [0.0, 24.0, 5000.0])
def test_what_is_remembered_next_equals_a_brute_force_computation(count, past):
    rng = np.random.default_rng(int(count + past))
    values = rng.normal(0.5, 1.5, (count, 3, 6)).astype(np.float32)
    logits = rng.normal(0, 3, (count, 4)).astype(np.float32)
    source_mean, source_var = np.float32([0.1, -0.4, 1.0]), np.float32([0.5, 1.0, 2.0])
    old = {
        CLASS_PRIOR: np.float32([0.3, -0.1, -0.1, -0.1]),
        FRAMES: np.float32(past),
        EVENNESS: np.float32(0.4),
        f"norm.{MEAN}": rng.normal(0, 0.3, 3).astype(np.float32),
        f"norm.{VAR}": rng.uniform(-0.3, 0.3, 3).astype(np.float32),
    }
    tensors = {name: torch.tensor(value) for name, value in old.items()}
    moments = frame_moments(torch.tensor(values), torch.tensor(source_mean))
    seen = {"norm": (torch.tensor(source_var), moments)}
    found = next_remembered(tensors, seen, torch.tensor(logits), hyper_parameters())
    doubles = {name: value.astype(np.float64) for name, value in old.items()}
    expected = brute_force(
        doubles,
        *(value.astype(np.float64) for value in (values, source_mean, source_var, logits)),
        HYPER_PARAMETERS,
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value)
        assert found[name].shape == tensors[name].shape


def two_classes(rare, often, seed=0):
    """Values [n, 1, 16], sure logits [n, 2] and the values of each class."""
    low, high = draw(often, 1, 16, seed=seed) - 4.0, 2.0 * draw(rare, 1, 16, seed=seed + 1) + 4.0
    labels = torch.tensor([0] * often + [1] * rare)
    logits = 60.0 * nn.functional.one_hot(labels, 2).float()
    return torch.cat([low, high]), logits, (low, high)


def remembered_of(values, logits):
    """Moments that are left of one batch alone, from a source of mean and variance zero."""
    old = zero(
        {
            CLASS_PRIOR: torch.empty(logits.shape[1]),
            FRAMES: torch.empty(()),
            EVENNESS: torch.empty(()),
            f"norm.{MEAN}": torch.empty(1),
            f"norm.{VAR}": torch.empty(1),
        }
    )
    seen = {"norm": (torch.zeros(1), frame_moments(values, torch.zeros(1)))}
    new = next_remembered(old, seen, logits, hyper_parameters(memory_rate=1.0))
    return new[f"norm.{MEAN}"], new[f"norm.{VAR}"]


def moments_of_an_even_mixture(low, high):
    mean = (low.mean() + high.mean()) / 2
    var = (low.var(unbiased=False) + high.var(unbiased=False)) / 2
    return mean, var + (low.mean() - high.mean()).square() / 4


@pytest.mark.parametrize(("rare", "often"), [(8, 8), (4, 36), (1, 60)])
def test_a_skewed_batch_is_remembered_as_the_even_mixture_of_its_classes(rare, often, monkeypatch):
    """Exactly so without the floor under the share of a class."""
    monkeypatch.setattr(remembered, "FLOOR", 0.0)
    values, logits, classes = two_classes(rare, often)
    mean, var = remembered_of(values, logits)
    expected = moments_of_an_even_mixture(*classes)
    close(mean[0], expected[0], 1e-4)
    close(var[0], expected[1], 1e-4)


def test_with_its_floor_balancing_leaves_a_tenth_of_the_skew():
    values, logits, classes = two_classes(4, 36)
    even = moments_of_an_even_mixture(*classes)[0]
    left = abs(remembered_of(values, logits)[0][0] - even)
    assert left < 0.11 * abs(values.mean() - even)


def step(old, distance, count, **values):
    """One batch of frames that all have the same mean, constant, and are surely of class 0."""
    moments = FrameMoments(torch.full((count, 1), distance), torch.full((count, 1), distance**2))
    logits = torch.tensor([[60.0, 0.0, 0.0]]).expand(count, 3)
    return next_remembered(
        old, {"norm": (torch.ones(1), moments)}, logits, hyper_parameters(**values)
    )


def nothing(past=0.0):
    arrays = {
        CLASS_PRIOR: torch.zeros(3), FRAMES: torch.tensor(past), EVENNESS: torch.tensor(0.0)
    }  # fmt: skip
    return arrays | {f"norm.{kind}": torch.zeros(1) for kind in (MEAN, VAR)}


def test_without_a_least_rate_all_frames_count_alike_and_the_source_as_so_many():
    arrays, distances = nothing(), [1.0, -2.0, 0.5, 4.0]
    for distance in distances:
        arrays = step(arrays, distance, 8, memory_rate=0.0)
    assert arrays[FRAMES] == 32
    close(arrays[f"norm.{MEAN}"][0], 8 * sum(distances) / (32 + SOURCE_FRAMES))
    close(arrays[f"norm.{VAR}"][0], -32 / (32 + SOURCE_FRAMES))  # constants; the source had 1
    close(arrays[CLASS_PRIOR], np.array([2, -1, -1]) / 3 * 32 / (32 + SOURCE_FRAMES))


def test_a_batch_never_counts_less_than_the_least_rate():
    arrays = step(nothing(past=1e5), 2.0, 8, memory_rate=0.05)
    close(arrays[f"norm.{MEAN}"][0], 0.05 * 2.0)
    close(arrays[CLASS_PRIOR][0], 0.05 * 2 / 3)


def test_one_large_batch_moves_the_prior_by_half_at_most():
    arrays = step(nothing(), 2.0, 984)
    close(arrays[f"norm.{MEAN}"][0], 0.984 * 2.0)
    close(arrays[CLASS_PRIOR][0], 0.5 * 2 / 3)


@pytest.mark.parametrize("past", [MOST_FRAMES - 3, MOST_FRAMES])
def test_the_count_of_frames_has_an_end(past):
    assert step(nothing(past), 1.0, 8)[FRAMES] == MOST_FRAMES


def test_the_same_context_is_remembered_better_and_better():
    values, logits, _ = two_classes(4, 36)
    expected, arrays = remembered_of(values, logits)[0], nothing()
    arrays[CLASS_PRIOR] = torch.zeros(2)
    seen, errors = {"norm": (torch.zeros(1), frame_moments(values, torch.zeros(1)))}, []
    for _ in range(100):
        arrays = next_remembered(arrays, seen, logits, hyper_parameters())
        errors.append(abs(arrays[f"norm.{MEAN}"] - expected).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]
    close(arrays[CLASS_PRIOR], [0.4, -0.4], 1e-2)


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
