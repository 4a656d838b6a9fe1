"""The learning rate that a bundle gets: by source frames, by the user, or small without either."""

import json

import numpy as np
import pytest
import torch

from edgemem.export import Choices, export_bundle
from edgemem.export.checks import calibrating
from edgemem.export.checks.calibrating import LEAST_FRAMES, MOST_FRAMES, frames_for_trial
from edgemem.export.choices import (
    ENOUGH,
    LEARNING_RATES,
    UNCALIBRATED,
    frame_spec,
    functions_of,
)
from edgemem.models import Recipe, attach, load_adaptive, save_adaptive, warm_up
from edgemem.models.networks import digits
from edgemem.runtime.tools.calibration import FACTORS, PLAINLY

DEFAULT = LEARNING_RATES["sgd"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A network that has learnt nothing, and is certain of it; warmed up on frames of noise."""
    torch.manual_seed(0)
    network = digits().eval()
    with torch.no_grad():
        network.classifier.weight.mul_(30)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (96, 1, 8, 8), dtype=np.uint8)
    model = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8), statistics="remembered")
    warm_up(model, frames, rng.integers(0, 10, 96), Recipe(1, 16, 1e-4))
    path = tmp_path_factory.mktemp("warm") / "w.safetensors"
    save_adaptive(model, path, {})
    return path


def manifest_of(warm, path, **choices):
    model, _ = load_adaptive(warm, digits())
    model.add_norm_affine()
    export_bundle(model, path, Choices(batch=8, **choices))
    return json.loads((path / "manifest.json").read_text())


@pytest.mark.slow
def test_a_network_that_gains_nothing_gets_no_step_or_a_smaller_one(warm, tmp_path):
    found = manifest_of(warm, tmp_path / "b.edgemem")
    calibration = found["exported_from"]["calibration"]
    rate = found["hyper_parameters"]["learning_rate"]
    assert rate["default"] == calibration["rate"] and rate["frozen"] == 0.0
    trials = calibration["trials"]
    expected = [DEFAULT * factor for factor in FACTORS][: len(trials)]
    assert [t["rate"] for t in trials] == pytest.approx(expected)
    helped = [t["rate"] for t in trials if t["gain"] >= max(0.001, 2 * t["deviation"])]
    assert calibration["rate"] == 0.0 or calibration["rate"] in helped


@pytest.mark.slow
def test_what_the_user_chose_is_kept(warm, tmp_path):
    found = manifest_of(warm, tmp_path / "b.edgemem", learning_rate=0.02)
    assert found["hyper_parameters"]["learning_rate"]["default"] == pytest.approx(0.02)
    home = found["exported_from"]["source_accuracy"]
    assert found["familiar"] == (home["without_steps"] - home["frozen"] < PLAINLY)
    assert "calibration" not in found["exported_from"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 32])
def test_without_source_frames_the_rate_is_small_and_smaller_for_small_batches(batch, tmp_path):
    model = attach(digits().eval(), [], torch.zeros(2, 1, 8, 8), norm_affine=True)
    export_bundle(model, tmp_path / "b.edgemem", Choices(batch=batch))
    found = json.loads((tmp_path / "b.edgemem/manifest.json").read_text())
    expected = DEFAULT * UNCALIBRATED * min(1, batch / ENOUGH)
    assert found["hyper_parameters"]["learning_rate"]["default"] == pytest.approx(expected)
    assert "calibration" not in found["exported_from"]


@pytest.mark.parametrize(("frames", "share"), [(31, UNCALIBRATED), (32, 1.0)])
def test_too_few_source_frames_to_try_steps_on_are_none(frames, share):
    """As a warm-up of large frames leaves them: their number is bounded by their bytes."""
    model = attach(digits().eval(), ["layer1"], torch.zeros(2, 1, 8, 8))
    model.source_frames = torch.rand(frames, 1, 8, 8)
    model.source_labels = torch.zeros(frames, dtype=torch.int64)
    choices = Choices(batch=16, gradient="meta", learn="all")
    functions, _ = functions_of(model, choices, frame_spec(model, choices))
    rate = float(functions["adapt"].inputs["hp.learning_rate"])
    assert rate == pytest.approx(share * DEFAULT)


@pytest.mark.parametrize(
    ("affordable", "taken"), [(1000, MOST_FRAMES), (100, 100), (1, LEAST_FRAMES)]
)
def test_a_trial_has_as_many_frames_as_its_operations_allow(monkeypatch, affordable, taken):
    given = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Linear(16, 10)
    ).eval()
    example = torch.zeros(2, 1, 8, 8)
    model = attach(given, [], example, statistics="remembered", sites=["1"])
    monkeypatch.setattr(calibrating, "MOST_OPERATIONS", affordable * 2 * (64 * 16 + 16 * 10))
    assert frames_for_trial(model, example) == taken
