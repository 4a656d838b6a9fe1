"""Streams of the harness: labels, orders, returns and bursts, and that a seed gives one stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import ALL, FRAMES, LABELS, stream

from benchmarks.adaptation.protocols import RETURNING, pool_contexts
from benchmarks.adaptation.streams import VISIT, Stream, correlated
from benchmarks.shared.speech import BANDS, RATE, STEPS, features, mel_bands, other_voices

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ALL)
def test_every_frame_has_the_label_of_its_image_and_a_context_that_is_in_the_pool(name):
    made = stream(name)
    np.testing.assert_array_equal(made.label, LABELS[made.image])
    assert len(made.context) == len(made.visit) == len(made)
    assert set(np.unique(made.context)) == set(range(len(made.contexts)))
    task = ALL[name].tasks[0]
    assert set(made.contexts) <= set(pool_contexts([ALL[name]], task))
    assert made.batch == {"single frames": 1, "speech": 16}.get(name, 64)


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_one_stream_and_another_seed_another(name):
    assert (stream(name).image == stream(name).image).all()
    assert (stream(name).image != stream(name, seed=2).image).any()


@pytest.mark.parametrize("name", ["continual", "gradual", "label-correlated", "single frames"])
def test_contexts_come_once_each_in_order(name):
    made = stream(name)
    assert (np.diff(made.context)[np.diff(made.context) != 0] >= -4).all()
    if name != "gradual":
        np.testing.assert_array_equal(made.context, np.sort(made.context))
        assert (np.bincount(made.context) == FRAMES).all()


def test_a_gradual_change_rises_to_severity_five_and_falls_again():
    made = stream("gradual")
    names = [made.contexts[k] for k in made.context[np.diff(made.context, prepend=-1) != 0]]
    levels = ("/1", "/2", "/3", "/4", "", "/4", "/3", "/2", "/1")
    assert names[:9] == [f"gaussian_noise{level}" for level in levels]


def test_mixed_contexts_change_all_the_time():
    made = stream("mixed")
    assert (np.diff(made.context) != 0).mean() > 0.8
    assert (np.bincount(made.context) == FRAMES).all()


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("recurring")])
def test_contexts_return_in_the_same_order(name):
    made = stream(name)
    expected = np.tile(np.repeat(np.arange(len(RETURNING)), VISIT), 2)
    np.testing.assert_array_equal(made.context, expected)
    np.testing.assert_array_equal(made.visit, np.repeat([0, 1], len(RETURNING) * VISIT))
    if name == "recurring, contradicting":
        assert ((made.label < 5) == (made.context % 2 == 0)).all()


@given(st.integers(0, 1000))
def test_correlated_labels_are_the_same_ones_in_longer_runs(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 10, VISIT)
    found = correlated(classes, rng)
    np.testing.assert_array_equal(np.sort(found), np.sort(classes))

    def runs(labels):
        return 1 + int((labels[1:] != labels[:-1]).sum())

    assert runs(found) <= 100 and runs(found) < runs(classes) / 2


def test_label_correlated_contexts_show_the_frames_of_the_continual_ones_in_longer_runs():
    made, plain = stream("label-correlated"), stream("continual")
    for k in range(len(made.contexts)):
        here, there = made.context == k, plain.context == k
        assert len(set(made.image[here])) == FRAMES
        changes = [(np.diff(s.label[p]) != 0).sum() for s, p in ((made, here), (plain, there))]
        assert changes[0] < changes[1]


def test_a_stream_survives_its_file(tmp_path):
    made = stream("recurring, skewed")
    made.save(tmp_path / "s.npz")
    back = Stream.load(tmp_path / "s.npz")
    assert back.contexts == made.contexts and back.batch == made.batch
    for name in ("context", "image", "label", "visit"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))


def test_bursts_are_long_runs_of_one_class():
    made = stream("bursts of one class")
    assert (np.bincount(made.context) == FRAMES).all()
    assert all(len(set(made.label[made.context == k])) == 1 for k in range(len(made.contexts)))


def test_speech_shows_every_recording_once():
    made = stream("speech")
    np.testing.assert_array_equal(np.sort(made.image), np.arange(len(LABELS)))


def test_features_of_speech_follow_the_pitch():
    """A tone's energy lies in the band of its frequency, wherever the recording ends."""
    seconds = np.arange(3000) / RATE
    for hertz in (500, 1000, 2000):
        found = features(0.5 * np.sin(2 * np.pi * hertz * seconds))
        assert found.shape == (BANDS, STEPS)
        filters = mel_bands()
        nearest = filters[:, round(hertz / (RATE / 2) * (filters.shape[1] - 1))].argmax()
        assert abs(int(found[:, 5].argmax()) - int(nearest)) <= 1
        assert (found[:, -1] == found[:, -1].min()).all()


def test_other_voices_keep_shape_and_loudness_and_leave_the_recording_alone():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(4, BANDS, STEPS)).astype(np.float32)
    before = frames.copy()
    made = other_voices(frames, 0)
    assert made.shape == frames.shape
    assert made.dtype == np.float32
    assert (made.max((1, 2)) <= frames.max((1, 2))).all()
    assert (np.abs(made - frames).mean((1, 2)) > 0.1).all()
    np.testing.assert_array_equal(frames, before)
    constant = np.ones((1, BANDS, STEPS), np.float32)
    np.testing.assert_allclose(other_voices(constant, 1), constant, atol=1e-6)
