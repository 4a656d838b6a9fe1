"""Tuning: a bad value is found and replaced, a good bundle is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import InputError
from edgemem.runtime.tools import tuning
from edgemem.runtime.tools.tuning import Choice, Errors, SourceFrames, trials_needed, tune
from edgemem.shifts import SHIFTS


@pytest.fixture(scope="module")
def source_path(tmp_path_factory):
    """Frames of the demo's stream that are like its source."""
    with np.load(STREAM) as held:
        clear = held["context"] == "clear"
        path = tmp_path_factory.mktemp("source") / "source.npz"
        np.savez(path, x=held["x"][clear], y=held["y"][clear])
    return path


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(BUNDLE)


def with_default(bundle, name, value):
    known = bundle.manifest.hyper_parameters
    changed = known | {name: replace(known[name], default=value)}
    return replace(bundle, manifest=replace(bundle.manifest, hyper_parameters=changed))


@pytest.mark.slow
def test_a_value_that_ruins_the_model_is_changed_and_fresh_draws_confirm_it(bundle, source_path):
    bad, notes = with_default(bundle, "alpha", 1.0), []
    source = SourceFrames.read(source_path, bad)
    found = tune(bad, source, frames=96, threads=1, note=notes.append)
    assert found.choice.parameters["alpha"] == 0.5
    assert found.after.all < found.before.all
    assert found.trials == len(notes) == trials_needed(bad)


def scripted(monkeypatch, answer):
    monkeypatch.setattr(
        tuning, "errors_of", lambda bundle, source, choice, frames, seed, backend:
        answer(choice, seed),
    )  # fmt: skip


def flat(error, clean=0.1):
    return Errors(error, clean, 0.01, {"random, clean": clean})


def test_what_fresh_draws_do_not_confirm_is_not_taken(bundle, source_path, monkeypatch):
    """Better only on the draw that chose it: seed 0."""

    def errors(choice, seed):
        chosen_by = choice.parameters and seed == 0
        return flat(0.2 if chosen_by else 0.3 + 0.1 * bool(choice.parameters))

    scripted(monkeypatch, errors)
    found = tune(bundle, SourceFrames.read(source_path, bundle))
    assert found.choice == Choice() and found.after == found.before


def test_what_costs_frames_without_a_shift_is_not_taken(bundle, source_path, monkeypatch):
    scripted(monkeypatch, lambda choice, seed: flat(
        0.2 if choice.parameters else 0.3, 0.2 if choice.parameters else 0.1))  # fmt: skip
    assert not tune(bundle, SourceFrames.read(source_path, bundle)).choice.parameters


def test_the_rarest_step_that_loses_nothing_is_taken(bundle, source_path, monkeypatch):
    scripted(monkeypatch, lambda choice, seed: flat(0.3 + (0.1 if choice.adapt_when == 10 else 0)))
    assert tune(bundle, SourceFrames.read(source_path, bundle)).choice == Choice({}, 3)


def test_a_bundle_that_steps_rarely_is_compared_with_itself(bundle, source_path, monkeypatch):
    rare = replace(bundle, manifest=replace(bundle.manifest, adapt_when=3))
    scripted(monkeypatch, lambda choice, seed: flat(0.3 - 0.01 * choice.adapt_when))
    assert tune(rare, SourceFrames.read(source_path, rare)).choice == Choice({}, 10)
    scripted(monkeypatch, lambda choice, seed: flat(0.3 + 0.01 * choice.adapt_when))
    found = tune(rare, SourceFrames.read(source_path, rare))
    assert found.choice == Choice({}, 3) and found.trials == trials_needed(rare)


def test_a_rate_of_zero_is_compared_with_rates_above_zero(bundle, source_path, monkeypatch):
    """Export leaves it at zero where steps do harm; more source frames may tell otherwise."""
    still = with_default(with_default(bundle, "learning_rate", 0.0), "entropy_margin", 0.0)
    tried, notes = [], []

    def answer(choice, seed):
        tried.append(choice)
        return flat(0.2 if choice.parameters.get("learning_rate", 0.0) > 0 else 0.3)

    scripted(monkeypatch, answer)
    found = tune(still, SourceFrames.read(source_path, still), note=notes.append)
    assert found.choice.parameters["learning_rate"] > 0
    assert len({c.parameters["learning_rate"] for c in tried if c.parameters}) > 2
    assert not any("entropy_margin" in choice.parameters for choice in tried)
    assert found.trials == len(notes) == trials_needed(still)


def test_streams_hold_every_shift_in_both_orders_and_mixed_and_repeat(bundle, source_path):
    source = SourceFrames.read(source_path, bundle)
    one, other = (list(source.streams(64, 3)) for _ in range(2))
    names = {f"{order}, {name}" for order in ("random", "runs") for name in ("clean", *SHIFTS)}
    assert {name for name, _, _ in one} == names | {"mixed, all"}
    for (name, x, y), (_, again, _) in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, again)
        assert x.min() >= source.x.min() and x.max() <= source.x.max() and len(x) == len(y)
        assert len(y) == (64 * (1 + len(SHIFTS)) if name == "mixed, all" else 64)
        runs = 1 + np.count_nonzero(np.diff(y))
        assert (runs == len(np.unique(y))) == name.startswith("runs")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: {"x": x}, "has no labels"),
        (lambda x, y: {"x": x, "y": y + 5}, "the bundle's classes are 0 to 9"),
        (lambda x, y: {"x": x[:31], "y": y[:31]}, "fewer than two batches"),
        (lambda x, y: {"x": x[:, :, :4], "y": y}, "shape"),
    ],
)
def test_frames_that_cannot_tune_are_refused(bundle, source_path, tmp_path, change, reason):
    with np.load(source_path) as held:
        np.savez(tmp_path / "s.npz", **change(held["x"], held["y"]))
    with pytest.raises(InputError, match=reason):
        SourceFrames.read(tmp_path / "s.npz", bundle)
