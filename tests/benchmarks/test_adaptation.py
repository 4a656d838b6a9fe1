"""The streams of the adaptation harness and what a run is judged by, against brute force."""

import numpy as np
import pytest
from adaptation.measures import WINDOW, measures, trend, worst_window
from adaptation.protocols import RETURNING, pool_contexts, protocols
from adaptation.streams import VISIT, Builder, Stream, correlated
from hypothesis import given
from hypothesis import strategies as st

LABELS = np.random.default_rng(0).permutation(np.arange(300) % 10)
FRAMES = 40
ALL = protocols(visits=2, long_visits=3)


def stream(name, seed=1):
    protocol = ALL[name]
    return protocol.make(Builder(LABELS, seed), protocol.contexts, FRAMES)


@pytest.mark.parametrize("name", ALL)
def test_every_frame_has_the_label_of_its_image_and_a_context_that_is_in_the_pool(name):
    made = stream(name)
    np.testing.assert_array_equal(made.label, LABELS[made.image])
    assert len(made.context) == len(made.visit) == len(made)
    assert set(np.unique(made.context)) == set(range(len(made.contexts)))
    assert set(made.contexts) <= set(pool_contexts([ALL[name]]))
    assert made.batch == (1 if name == "single frames" else 64)


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
def test_contexts_return_in_the_same_order_with_frames_of_their_own(name):
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


def test_a_stream_survives_its_file(tmp_path):
    made = stream("recurring, skewed")
    made.save(tmp_path / "s.npz")
    back = Stream.load(tmp_path / "s.npz")
    assert back.contexts == made.contexts and back.batch == made.batch
    for name in ("context", "image", "label", "visit"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))


def test_measures_are_those_of_their_definitions():
    context = np.repeat([0, 1, 0, 1], 256)
    visit = np.repeat([0, 0, 1, 1], 256)
    zeros = np.zeros(1024, np.int64)
    made = Stream(("fog", "snow"), context, zeros, zeros, visit, 64)
    wrong = np.random.default_rng(0).random(1024) < np.repeat([0.6, 0.5, 0.4, 0.2], 256)
    cells = [
        [wrong[:256].mean(), wrong[256:512].mean()],
        [wrong[512:768].mean(), wrong[768:].mean()],
    ]
    found = measures(wrong, made)
    assert found["error"] == pytest.approx(np.mean(cells))
    assert found["by_visit"] == pytest.approx([np.mean(row) for row in cells])
    assert found["by_context"]["snow"] == pytest.approx((cells[0][1] + cells[1][1]) / 2)
    gain = [cells[0][k] - cells[1][k] for k in (0, 1)]
    assert found["backward_transfer"] == pytest.approx(np.mean(gain))
    assert found["forgetting"] == pytest.approx(-np.mean(gain))
    first = np.concatenate([wrong[start : start + 128] for start in (256, 512, 768)])
    assert found["first"] == pytest.approx(first.mean())


@given(st.lists(st.booleans(), min_size=1, max_size=700))
def test_the_worst_window_is_the_worst_of_all(values):
    wrong = np.array(values)
    size = min(WINDOW, len(wrong))
    windows = [wrong[i : i + size].mean() for i in range(len(wrong) - size + 1)]
    assert worst_window(wrong) == pytest.approx(max(windows))


def test_a_trend_is_the_slope_of_the_second_half():
    rng = np.random.default_rng(0)
    rising = rng.random(40_000) < np.linspace(0.1, 0.5, 40_000)
    assert trend(rising) == pytest.approx(0.1, abs=0.01)
    assert abs(trend(rng.random(40_000) < 0.3)) < 0.01
