"""Whatever was fed, and whatever went wrong in memory: what is committed opens again."""

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, damaged, opened, step_all
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import InputError
from edgemem.runtime.contexts.recognition import FAR, SourceKeys
from edgemem.runtime.frames import LARGEST, checked
from edgemem.testing import session_of

pytestmark = pytest.mark.usefixtures("never_familiar")
SPEC = open_bundle(BUNDLE).manifest.frames
LARGEST_FLOAT = float(np.finfo(np.float32).max)
MAGNITUDES = [0.0, 1e-45, 1e-30, 1.0, 255.0, 1e6, 1e12, LARGEST, 1.01 * LARGEST, 3e17, 1e30]
MAGNITUDES += [LARGEST_FLOAT]


def fed(pattern, magnitude, seed, count=BATCH):
    """Frames of one pattern and magnitude."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, *SPEC.shape)).astype(np.float32)
    if pattern == "signs":
        x = np.sign(x)
    elif pattern == "one frame":
        x[seed % count] = 1.0
    most = {"one pixel": np.s_[seed % count, 0, 0, 0], "one frame": np.s_[seed % count]}
    x[most.get(pattern, np.s_[:])] *= np.float32(magnitude)
    return x


BATCHES = st.tuples(
    st.sampled_from(["noise", "signs", "one pixel", "one frame"]),
    st.sampled_from(MAGNITUDES),
    st.integers(0, 999),
    st.sampled_from([BATCH, BATCH, 5]),
)
RUNS = st.tuples(st.lists(BATCHES, min_size=1, max_size=4), st.booleans())


@settings(max_examples=4)
@given(RUNS)
def test_any_finite_frames_leave_a_state_that_opens_and_goes_on(tmp_path_factory, even_frames, run):
    require_readable(tmp_path_factory.mktemp("state") / "s.db", even_frames, *run)


@pytest.mark.slow
@settings(max_examples=60)
@given(RUNS)
def test_more_finite_frames_leave_a_state_that_opens_too(tmp_path_factory, even_frames, run):
    require_readable(tmp_path_factory.mktemp("state") / "s.db", even_frames, *run)


def require_readable(path, even_frames, batches, contexts):
    with opened(path, contexts=contexts) as runtime:
        step_all(runtime, even_frames[: 2 * BATCH])
        for batch in batches:
            try:
                runtime.step(fed(*batch))
            except InputError as error:
                assert "beyond 1e+15" in error.reason and batch[1] > LARGEST
            runtime.flush()
        block, counters = session_of(runtime).block, dict(runtime.counters)
        expected = runtime.predict(even_frames[:40]).logits
    with opened(path, contexts=contexts) as again:
        assert not damaged(again) and again.counters == counters
        assert_same_arrays(session_of(again).block, block)
        np.testing.assert_array_equal(again.predict(even_frames[:40]).logits, expected)
        again.step(even_frames[:BATCH])
    with opened(path, contexts=contexts) as again:
        assert not damaged(again)
        assert again.counters["frames"] == counters["frames"] + BATCH


@pytest.mark.parametrize("magnitude", [1.01 * LARGEST, 3e17, LARGEST_FLOAT, -LARGEST_FLOAT])
def test_frames_beyond_what_float32_can_square_are_refused_by_name(magnitude):
    frames = np.zeros((4, *SPEC.shape), np.float32)
    frames[2].flat[7] = magnitude
    with opened() as runtime:
        for verb in (runtime.predict, runtime.step):
            with pytest.raises(InputError, match=r"beyond 1e\+15 \(1 of 4, first frame 2\)"):
                verb(frames)
        assert runtime.counters["frames"] == 0
        assert np.isfinite(runtime.step(np.delete(frames, 2, 0)).logits).all()  # the remedy


def test_the_largest_frames_that_are_taken_give_numbers():
    with opened() as runtime:
        for frames in (np.full((BATCH, *SPEC.shape), sign * LARGEST) for sign in (1, -1)):
            frames[0] = 0
            result = runtime.step(frames.astype(np.float32))
            assert np.isfinite(result.logits).all()


def test_masked_frames_are_refused_and_the_remedy_works():
    values = np.ones((3, *SPEC.shape), np.float32)
    values[1, 0, 0, 0] = np.nan
    masked = np.ma.masked_invalid(values)
    for frames in (masked, masked[1], np.ma.array(np.ones_like(values))):
        with pytest.raises(InputError, match=r"are masked. Pass frames.filled\(0\)"):
            checked(frames, SPEC)
    expected = np.nan_to_num(values, nan=0.0)
    np.testing.assert_array_equal(checked(masked.filled(0), SPEC), expected)


class Trusting(np.ndarray):
    """An array to which everything is finite and small."""

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        plain = [np.asarray(value) for value in inputs]
        found = getattr(ufunc, method)(*plain, **more)
        return np.ones_like(found) if np.asarray(found).dtype == bool else found

    def max(self, *arguments, **more):
        return np.zeros(len(self))

    min = max


def test_a_subclass_is_checked_as_plain_numbers():
    frames = np.full((2, *SPEC.shape), np.nan, np.float32).view(Trusting)
    with pytest.raises(InputError, match="NaN or infinite"):
        checked(frames, SPEC)
    assert type(checked(np.ones((2, *SPEC.shape), np.float32).view(Trusting), SPEC)) is np.ndarray


@pytest.mark.parametrize("dtype", [object, "float16", "float64", ">f4", "complex64", "U3", bool])
def test_other_kinds_of_numbers_are_refused(dtype):
    with pytest.raises(InputError, match="dtype"):
        checked(np.ones((2, *SPEC.shape)).astype(dtype), SPEC)


@settings(max_examples=100)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
    st.sampled_from([1.0, 1e4, 1e30]),
)
def test_a_key_is_never_so_far_that_squares_leave_float32(key, scale):
    rng = np.random.default_rng(0)
    whitening = (scale * rng.normal(size=(6, 6))).astype(np.float32)
    mean = rng.normal(size=6).astype(np.float32)
    found = SourceKeys(mean, whitening, 1.0).normal(np.float32(key))
    exact = whitening.astype(np.float64) @ (np.float64(key) - mean)
    length = np.linalg.norm(exact)
    assert found.dtype == np.float32 and np.isfinite(np.float32(4) * (found @ found))
    expected = exact * min(1.0, FAR / length) if length else exact
    np.testing.assert_allclose(
        found, expected, rtol=1e-3, atol=1e-4 * max(np.abs(expected).max(), 1)
    )
