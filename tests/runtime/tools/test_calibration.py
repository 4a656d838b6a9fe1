"""The learning rate that a network's own source frames allow."""

from dataclasses import replace

import numpy as np
import pytest

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import InputError
from edgemem.runtime.tools import calibration
from edgemem.runtime.tools.calibration import (
    FACTORS,
    PLAINLY,
    RateTrial,
    SourceAccuracies,
    calibrate,
    compare_at_home,
)
from edgemem.runtime.tools.tuning import SourceFrames

RATE = "learning_rate"


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(BUNDLE)


@pytest.fixture(scope="module")
def source():
    with np.load(STREAM) as held:
        clear = held["context"] == "clear"
        return SourceFrames(held["x"][clear][:128] / np.float32(255), held["y"][clear][:128])


def with_rate(bundle, rate):
    known = dict(bundle.manifest.hyper_parameters)
    known[RATE] = replace(known[RATE], default=rate)
    return replace(bundle, manifest=replace(bundle.manifest, hyper_parameters=known))


@pytest.mark.slow
def test_a_rate_that_runs_away_is_not_kept(bundle, source):
    found = calibrate(with_rate(bundle, 300.0), source, frames=48, threads=1)
    assert found.rate < 300.0 and not found.trials[0].helps
    assert found.trials[0].gain < -0.05


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ((0.02,), 0),  # the first rate helps: no other is tried
        ((-0.1, 0.02), 1),
        ((-0.1, -0.01, 0.01), 2),
        ((-0.1, -0.01, 0.0001), None),
        ((-0.1, -0.01, 0.0), None),
    ],
)
def test_the_largest_rate_that_helps_is_taken(bundle, source, monkeypatch, gains, chosen):
    """Answers of made-up runs: without steps half of them are right, else as many more."""
    asked = []

    def answers(bundle, source, choice, frames, seed, backend):
        rate = choice.parameters[RATE]
        asked.append(rate)
        gain = 0.0 if rate == 0 else gains[len(asked) - 2]
        right = np.arange(10_000) < 10_000 * (0.5 + gain)
        return {"random, clean": right, "runs, noise": right}

    monkeypatch.setattr(calibration, "answers_of", answers)
    default = bundle.manifest.hyper_parameters[RATE].default
    found = calibrate(bundle, source)
    rates = [factor * default for factor in FACTORS]
    assert found.rate == (0.0 if chosen is None else rates[chosen])
    assert asked == [0.0, *rates[: len(gains)]] and len(found.trials) == len(gains)
    for trial, gain in zip(found.trials, gains, strict=True):
        assert trial.gain == pytest.approx(gain, abs=1e-4)
        assert trial.deviation == pytest.approx((abs(gain) / 20_000) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("gains", "draws", "helps"),
    [
        ((0.002, 0.002, 0.002), 2, True),  # 1.7, then 2.4 deviations
        ((0.002, -0.002, 0.002), 2, False),  # nothing is left of it
        ((0.002, 0.0005, 0.0005), 3, False),  # never plain
    ],
)
def test_more_frames_are_drawn_while_a_gain_may_be_chance(
    bundle, source, monkeypatch, gains, draws, helps
):
    """So many of 10,000 answers change at a draw; without steps half of all are right."""
    asked, changed = [], 140

    def answers(bundle, source, choice, frames, seed, backend):
        right = np.arange(10_000) < 5_000
        if choice.parameters[RATE] == bundle.manifest.hyper_parameters[RATE].default:
            asked.append(seed)
            gained = round(changed / 2 + 5_000 * gains[seed])
            right[5_000 : 5_000 + gained] = True
            right[: changed - gained] = False
        return {"random, clean": right}

    monkeypatch.setattr(calibration, "answers_of", answers)
    trial = calibrate(bundle, source).trials[0]
    assert asked == list(range(draws)) and trial.helps is helps
    assert trial.gain == pytest.approx(np.mean(gains[:draws]), abs=1e-4)
    assert trial.deviation == pytest.approx((changed / 10_000 / (10_000 * draws)) ** 0.5)


def test_a_gain_must_be_more_than_chance_and_no_order_of_labels_may_pay_for_it():
    orders = {"random": 0.03, "runs": 0.01, "mixed": 0.002}
    assert RateTrial(1e-3, 0.014, 0.003, orders).helps
    assert not RateTrial(1e-3, 0.014, 0.008, orders).helps
    assert not RateTrial(1e-3, 0.014, 0.003, orders | {"mixed": -0.02}).helps
    assert not RateTrial(1e-3, 0.0, 0.0, dict.fromkeys(orders, 0.0)).helps


def test_a_bundle_without_a_rate_is_refused(bundle, source):
    known = {n: v for n, v in bundle.manifest.hyper_parameters.items() if n != RATE}
    bare = replace(bundle, manifest=replace(bundle.manifest, hyper_parameters=known))
    with pytest.raises(InputError, match="no learning rate"):
        calibrate(bare, source)


def test_steps_run_as_rarely_as_the_bundle_says(bundle, source, monkeypatch):
    asked = []

    def answers(bundle, source, choice, frames, seed, backend):
        asked.append(choice.adapt_when)
        return {"random, clean": np.ones(100, np.bool_)}

    monkeypatch.setattr(calibration, "answers_of", answers)
    rare = replace(bundle, manifest=replace(bundle.manifest, adapt_when=3))
    calibrate(rare, source, threads=1)
    assert set(asked) == {3}


def test_at_home_both_are_asked_about_each_frame_once(bundle, source):
    found = compare_at_home(bundle, source, threads=1)
    with edgemem.open(BUNDLE, threads=1) as runtime:
        answers = runtime.predict(source.x, frozen=True).labels
    assert found.frozen == pytest.approx((answers == source.y).mean())
    assert 0.5 < found.without_steps <= 1.0


def test_the_frozen_model_answers_at_home_unless_it_is_plainly_worse():
    assert SourceAccuracies(0.7, 0.7 + 0.9 * PLAINLY).frozen_answers
    assert SourceAccuracies(0.9, 0.4).frozen_answers
    assert not SourceAccuracies(0.46, 0.63).frozen_answers
