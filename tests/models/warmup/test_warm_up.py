"""Warm-up: what it trains, what it leaves alone, and that an interruption changes nothing."""

import copy

import numpy as np
import pytest
import torch

from edgemem.errors import CheckpointError, InputError
from edgemem.models import Form, Recipe, attach, warm_up
from edgemem.models.networks.conv1d import conv1d
from edgemem.models.networks.digits import Digits

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.05)
STEPS = 8  # a pass over the frames


@pytest.fixture(scope="module")
def source():
    """Flat, striped, banded and chequered frames; the texture is the label."""
    rng = np.random.default_rng(0)
    row, column = np.indices((8, 8)) % 2
    textures = np.stack([0 * row, row, column, row ^ column])
    labels = rng.integers(0, 4, 16 * STEPS)
    noise = rng.integers(0, 100, (len(labels), 1, 8, 8))
    frames = (noise + 120 * textures[labels][:, None]).astype(np.uint8)
    return frames, labels


@pytest.fixture
def network(lively):
    return lively(Digits(width=6))


@pytest.fixture
def model(network):
    return build(network)


def build(network, parts=("layer1", "layer2"), **options):
    return attach(network, parts, torch.zeros(2, *network.input_shape), **options)


def state(model):
    return copy.deepcopy(model.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


class Interruption(Exception):
    pass


def interrupt(step):
    """A report that fails after so many steps, as a power cut would."""

    def report(progress):
        if progress.step == step:
            raise Interruption

    return report


@pytest.fixture(scope="module")
def uninterrupted(lively, source):
    """The state after all epochs (do not write there)."""
    model = build(lively(Digits(width=6)))
    warm_up(model, *source, RECIPE)
    return state(model)


def test_the_loss_falls_and_the_adaptive_model_beats_the_frozen_one(network, source):
    model, seen = build(network), []
    recipe = Recipe(epochs=14, batch_size=16, learning_rate=0.5)
    warm_up(model, *source, recipe, report=seen.append)
    assert [p.step for p in seen] == list(range(1, 14 * STEPS + 1))
    assert all(p.steps == 14 * STEPS for p in seen)
    assert seen[-1].loss < 0.3 * seen[4].loss
    assert seen[-1].accuracy > 0.8
    x, y = torch.from_numpy(source[0]).float() / 255, torch.from_numpy(source[1])
    with torch.no_grad():
        frozen = (model.frozen_logits(x).argmax(1) == y).float().mean()
        adaptive = (model(x, torch.tensor(0.5)).logits.argmax(1) == y).float().mean()
    assert frozen < 0.6
    assert adaptive > 0.95
    assert model.warm


def test_only_meta_networks_change(network, source):
    model = build(network, norm_affine=True)
    before, original = state(model), copy.deepcopy(network.state_dict())
    warm_up(model, *source, Recipe(epochs=1, batch_size=16))
    after = model.state_dict()
    assert after.pop("source_range").shape == (2, 1)
    assert len(after.pop("source_labels")) == len(after.pop("source_entropies")) == 128
    assert after.pop("source_moments").shape == (128, 2, network.stem[0].out_channels)
    assert after.pop("source_frames").shape == (128, *network.input_shape)
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert changed == {name for name in before if name.startswith("meta.")}
    assert same(network.state_dict(), original)


def test_the_source_moments_are_those_of_all_frames(network, source):
    """128 frames are 8 batches, of which up to 16 are looked at: so all of them."""
    model = build(network, ["layer1"])
    warm_up(model, *source, Recipe(epochs=1, batch_size=16))
    with torch.no_grad():
        y = network.layer1(network.stem(torch.from_numpy(source[0]).float() / 255))
    norm = model.meta["layer1"].output_norm
    torch.testing.assert_close(norm.mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.var, y.var((0, 2, 3), unbiased=False), rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_result_and_another_seed_another(
    network, source, uninterrupted
):
    torch.manual_seed(99)  # the state of the global generator is nobody's business
    before = torch.get_rng_state()
    model = build(network)
    torch.set_rng_state(before)
    warm_up(model, *source, RECIPE)
    assert torch.get_rng_state().equal(before)
    assert same(model.state_dict(), uninterrupted)
    warm_up(model, *source, Recipe(3, 16, 0.05, seed=1))
    assert not same(model.state_dict(), uninterrupted)


def test_warming_up_again_starts_afresh(model, source, uninterrupted):
    warm_up(model, *source, Recipe(epochs=1, batch_size=32, seed=7))
    warm_up(model, *source, RECIPE)
    assert same(model.state_dict(), uninterrupted)


def test_bytes_and_floats_are_the_same_frames(model, source, uninterrupted):
    frames, labels = source
    warm_up(model, frames.astype(np.float32) / 255, labels.astype(np.int32), RECIPE)
    found, expected = dict(model.state_dict()), dict(uninterrupted)
    kept = found.pop("source_frames"), expected.pop("source_frames").float() / 255
    torch.testing.assert_close(*kept)
    assert same(found, expected)


@pytest.mark.parametrize("step", [3, STEPS, STEPS + 1, 2 * STEPS + 5, 3 * STEPS])
@pytest.mark.parametrize("again", ["same process", "new process"])
def test_an_interruption_changes_nothing_bit_for_bit(
    step, again, network, source, uninterrupted, tmp_path
):
    resume, model = tmp_path / "progress.safetensors", build(network)
    with pytest.raises(Interruption):
        warm_up(model, *source, RECIPE, resume=resume, report=interrupt(step))
    assert not model.warm
    assert resume.exists() == (step > STEPS)
    if again == "new process":
        model = build(network)
    seen = []
    warm_up(model, *source, RECIPE, resume=resume, report=seen.append)
    assert seen[0].step == 1 + STEPS * ((step - 1) // STEPS)  # epochs done are not repeated
    assert same(model.state_dict(), uninterrupted)
    assert model.warm
    assert [p.name for p in tmp_path.iterdir()] == ["progress.safetensors"]


def test_a_finished_progress_file_gives_the_result_at_once(
    network, source, uninterrupted, tmp_path
):
    resume, seen = tmp_path / "progress.safetensors", []
    warm_up(build(network), *source, RECIPE, resume=resume)
    model = build(network)
    warm_up(model, *source, RECIPE, resume=resume, report=seen.append)
    assert not seen
    assert same(model.state_dict(), uninterrupted)


def test_the_progress_of_other_settings_is_refused(network, lively, source, tmp_path):
    resume = tmp_path / "progress.safetensors"
    with pytest.raises(Interruption):
        warm_up(build(network), *source, RECIPE, resume=resume, report=interrupt(STEPS + 1))
    before = resume.read_bytes()
    frames, labels = source
    others = {
        "recipe": (build(network), frames, labels, Recipe(3, 16, 0.01)),
        "labels": (build(network), frames, labels[::-1].copy(), RECIPE),
        "frames": (build(network), frames[::-1].copy(), labels, RECIPE),
        "network": (build(lively(Digits(width=6), seed=5)), frames, labels, RECIPE),
        "parts": (build(network, ["layer1"]), frames, labels, RECIPE),
        "form": (build(network, form=Form(1)), frames, labels, RECIPE),
        "statistics": (build(network, statistics="batch"), frames, labels, RECIPE),
    }
    for name, arguments in others.items():
        with pytest.raises(CheckpointError, match="other data, model or recipe"):
            warm_up(*arguments, resume=resume)
        assert not arguments[0].warm, name
    assert resume.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_damaged_progress_file_is_refused(keep, network, source, tmp_path):
    resume = tmp_path / "progress.safetensors"
    with pytest.raises(Interruption):
        warm_up(build(network), *source, RECIPE, resume=resume, report=interrupt(STEPS + 1))
    resume.write_bytes(resume.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"progress\.safetensors"):
        warm_up(build(network), *source, RECIPE, resume=resume)


BAD_DATA = {
    "run from -1 to 3": lambda x, y: (x, np.where(y == 0, -1, y)),
    "run from 0 to 10, the model has 10": lambda x, y: (x, np.where(y == 3, 10, y)),
    r"float64\[128\]": lambda x, y: (x, y.astype(float)),
    r"int64\[128, 4\]": lambda x, y: (x, np.eye(4, dtype=int)[y]),
    r"int64\[127\] for 128 frames": lambda x, y: (x, y[1:]),
    "has 15 frames, fewer than one batch of 16": lambda x, y: (x[:15], y[:15]),
}


@pytest.mark.parametrize("message", BAD_DATA)
def test_data_that_does_not_fit_is_refused_before_anything_changes(message, model, source):
    before = state(model)
    with pytest.raises(InputError, match=message):
        warm_up(model, *BAD_DATA[message](*source), RECIPE)
    assert same(model.state_dict(), before)
    assert not model.warm


def test_a_loss_that_is_not_finite_ends_it(model, source):
    with pytest.raises(InputError, match=r"the loss is not finite.*Lower the learning rate"):
        warm_up(model, *source, Recipe(epochs=1, batch_size=16, learning_rate=1e6, momentum=1e6))
    assert not model.warm


def test_a_model_without_meta_networks_has_nothing_to_train(network, source):
    with pytest.raises(InputError, match="no meta network"):
        warm_up(build(network, []), *source, RECIPE)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"seed": -1}])
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="is too small"):
        Recipe(**wrong)


@pytest.mark.parametrize("statistics", ["source", "batch", 0.3])
def test_signals_are_warmed_up_too(statistics, lively):
    network = lively(conv1d(channels=3, classes=4, length=32))
    frames = np.random.default_rng(0).normal(size=(40, 3, 32)).astype(np.float32)
    model = build(network, ["blocks[0:2]", "blocks.2"], statistics=statistics, form=Form(5))
    before, seen = state(model), []
    warm_up(model, frames, np.arange(40) % 4, Recipe(2, 20), report=seen.append)
    assert len(seen) == 4
    assert not same(model.state_dict(), before)
    assert all(value.isfinite().all() for value in model.state_dict().values())
