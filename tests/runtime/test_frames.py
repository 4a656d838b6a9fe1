"""Checks on frames: what is refused, and frames of another scale than the source's."""

import numpy as np
import pytest

import edgemem
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.errors import InputError
from edgemem.runtime.frames import RangeWatch, bad_frames, checked

RNG = np.random.default_rng(0)
COLOUR = FrameSpec((3, 8, 8), 4, True, 4, source_range=((0.0,) * 3, (1.0,) * 3))
DECIBELS = FrameSpec((1, 24, 24), 4, True, 4, source_range=((-90.0,), (0.0,)))
# Acceleration in g beside pressure in hPa.
SENSORS = FrameSpec((2, 30), 4, True, 4, source_range=((-4.0, 950.0), (4.0, 1050.0)))
FEATURES = FrameSpec((2,), 4, True, 4, source_range=((0.0, 7.0), (1.0, 7.0)))


def told(spec, x):
    return RangeWatch(spec).look(np.asarray(x, np.float32))


def sensors(scale=1.0):
    x = RNG.normal(size=(4, 2, 30)) * [[1.0], [20.0]] + [[0.0], [1000.0]]
    return x * scale


USUAL = {
    "the source": (COLOUR, RNG.uniform(0, 1, (4, 3, 8, 8))),
    "night": (COLOUR, RNG.uniform(0, 0.1, (4, 3, 8, 8))),
    "black": (COLOUR, np.zeros((4, 3, 8, 8))),
    "heavy noise": (COLOUR, 0.5 + 0.8 * RNG.normal(size=(4, 3, 8, 8))),
    "loud": (DECIBELS, RNG.uniform(-40, 20, (4, 1, 24, 24))),
    "shaken": (SENSORS, sensors() * [[3.0], [1.0]]),
    "a feature that was constant": (FEATURES, RNG.uniform((0, 3), (1, 9), (4, 2))),
}


@pytest.mark.parametrize("name", USUAL)
def test_shifts_are_no_other_scale(name):
    assert told(*USUAL[name]) == ()


UNUSUAL = {
    "bytes for fractions": (COLOUR, RNG.integers(0, 256, (4, 3, 8, 8))),
    "fractions for bytes": (
        FrameSpec((3, 8, 8), 4, True, 4, source_range=((0.0,) * 3, (255.0,) * 3)),
        RNG.uniform(0, 1, (4, 3, 8, 8)),
    ),
    "normalised twice": (COLOUR, (RNG.uniform(0, 1, (4, 3, 8, 8)) - 0.45) / 0.22),
    "power for dB": (DECIBELS, 10 ** RNG.uniform(2, 6, (4, 1, 24, 24))),
    "Pa for hPa": (SENSORS, sensors(100.0)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_another_scale_is_told_once_with_both_ranges(name):
    spec, x = UNUSUAL[name]
    watch, x = RangeWatch(spec), np.asarray(x, np.float32)
    (event,) = watch.look(x)
    assert event.kind == "range"
    low, high = np.min(spec.source_range[0]), np.max(spec.source_range[1])
    for value in (x.min(), x.max(), low, high):
        assert f"{value:.3g}" in event.message
    assert watch.look(x) == ()


def test_without_a_known_range_nothing_is_told():
    assert told(FrameSpec((3, 8, 8), 4, True, 4), 1e6 * np.ones((4, 3, 8, 8))) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_frame_that_is_not_finite_is_named(value):
    x = RNG.uniform(0, 1, (6, 3, 8, 8)).astype(np.float32)
    x[2, 1, 0, 0] = x[5, 0, 7, 7] = value
    assert bad_frames(x).tolist() == [2, 5]
    with pytest.raises(InputError, match="2 of 6, first frame 2"):
        checked(x, COLOUR)


def test_the_runtime_tells_it_in_step_and_in_predict(bundle, seal):
    def known(manifest):
        manifest["frames"]["source_range"] = [[0.0], [0.9]]

    seal(bundle, known)
    x = RNG.uniform(0, 255, (16, 1, 8, 8)).astype(np.float32)
    with edgemem.open(bundle, threads=1) as runtime:
        assert "range" in [event.kind for event in runtime.step(x).events]
        assert "range" not in [event.kind for event in runtime.step(x).events]
    with edgemem.open(bundle, threads=1) as runtime:
        assert "range" not in [event.kind for event in runtime.step(x / 255).events]
        assert [event.kind for event in runtime.predict(x).events] == ["range"]
