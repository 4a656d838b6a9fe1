"""On frames like the source's the frozen model answers and nothing is learnt; elsewhere it does not."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import edgemem
from edgemem.demo import BUNDLE, STREAM

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    """By context, [n, 1, 8, 8] and labels, in random order; "clear" is like the source."""
    with np.load(STREAM) as held:
        x, y, context = held["x"], held["y"], held["context"]
    rng, found = np.random.default_rng(0), {}
    for name in np.unique(context):
        places = rng.permutation(np.flatnonzero(context == name))
        found[str(name)] = x[places], y[places]
    # The stream's own clear frames have rare and frequent classes; the source has not.
    digits = load_digits()
    held = np.random.default_rng(0).permutation(len(digits.target))[1000:]
    images = np.round(digits.images[held] * (255 / 16)).astype(np.uint8)[:, None]
    found["clear"] = images, digits.target[held]
    return found


def opened(**options):
    return edgemem.open(BUNDLE, **{"threads": 1} | options)


def run(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def kinds(results):
    return [event.kind for result in results for event in result.events]


@pytest.mark.parametrize("contexts", [True, False])
def test_source_frames_are_answered_as_by_the_frozen_model_and_teach_nothing(frames, contexts):
    x, _ = frames["clear"]
    with opened(contexts=contexts) as runtime:
        results = run(runtime, x[: 40 * BATCH])
        expected = [runtime.predict(x[i : i + BATCH], frozen=True).logits
                    for i in range(0, 40 * BATCH, BATCH)]  # fmt: skip
        assert runtime.counters["steps"] == 0
    assert kinds(results).count("familiar") == 1
    for result, logits in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.logits, logits)


def test_frames_between_batches_are_answered_alike(frames):
    x, _ = frames["clear"]
    with opened() as runtime:
        run(runtime, x[: 8 * BATCH])
        one = x[8 * BATCH : 8 * BATCH + 1]
        expected = runtime.predict(one, frozen=True).logits
        np.testing.assert_allclose(runtime.predict(one).logits, expected, atol=1e-5)
        np.testing.assert_allclose(runtime.step(one).logits, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fog", "noise", "dusk", "blur"])
def test_other_frames_are_adapted_to(frames, name):
    x, y = frames[name]
    with opened() as runtime:
        results = run(runtime, x[: 20 * BATCH])
        frozen = runtime.predict(x[: 20 * BATCH], frozen=True).labels
        assert runtime.counters["steps"] >= 18
    wrong = (np.concatenate([r.labels for r in results]) != y[: 20 * BATCH]).mean()
    assert wrong < (frozen != y[: 20 * BATCH]).mean()


def test_when_the_frames_change_the_block_answers_and_afterwards_the_frozen_model_again(frames):
    with opened() as runtime:
        first = run(runtime, frames["clear"][0][: 20 * BATCH])
        fog = run(runtime, frames["fog"][0][: 20 * BATCH])
        again = run(runtime, frames["clear"][0][20 * BATCH : 30 * BATCH])
    assert "familiar" in kinds(first) and "unfamiliar" in kinds(fog[:2])
    assert sum(result.adapted for result in fog) >= 17
    assert "familiar" in kinds(again[:3]) and not any(result.adapted for result in again[3:])


def test_source_frames_in_runs_of_a_class_are_read_in_order(frames):
    x, y = frames["clear"]
    order = np.argsort(y, kind="stable")
    with opened() as runtime:
        results = run(runtime, x[order])
        frozen = runtime.predict(x[order], frozen=True).labels
    found = np.concatenate([result.labels for result in results])
    assert (found != y[order]).mean() <= (frozen != y[order]).mean() + 0.01  # where classes change


def test_a_state_file_goes_on_where_it_was(frames, tmp_path):
    x, _ = frames["clear"]
    parts = [x[: 12 * BATCH], x[12 * BATCH : 24 * BATCH]]
    with opened() as runtime:
        run(runtime, parts[0])
        expected = run(runtime, parts[1])
    for part in parts:
        with opened(state=tmp_path / "s.db") as runtime:
            found = run(runtime, part)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    assert "familiar" not in kinds(found)


def test_a_rollback_forgets_what_was_seen(frames):
    with opened() as runtime:
        run(runtime, frames["clear"][0][: 8 * BATCH])
        assert runtime._learner.familiar
        runtime.rollback("source")
        assert not runtime._learner.familiar
