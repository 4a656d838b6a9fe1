"""Whatever was fed, and whatever went wrong in memory: what is committed opens again."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from context_runs import BATCH, assert_same_arrays, events, opened, step_all
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import InputError, StateError
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.contexts.recognition import FAR, SourceKeys
from edgemem.runtime.frames import LARGEST, checked
from edgemem.runtime.guard.failure_indicators import Evidence
from edgemem.runtime.persistence import commits
from edgemem.runtime.step.graphs import Graphs
from edgemem.state.store import State
from edgemem.testing import notices_of, put_session, ring_of, session_of

pytestmark = pytest.mark.usefixtures("never_familiar")

SPEC = open_bundle(BUNDLE).manifest.frames
LARGEST_FLOAT = float(np.finfo(np.float32).max)
MAGNITUDES = [0.0, 1e-45, 1e-30, 1.0, 255.0, 1e6, 1e12, LARGEST, 1.01 * LARGEST, 3e17, 1e30]
MAGNITUDES += [LARGEST_FLOAT]


def damaged(runtime):
    return [event for event in notices_of(runtime) if event.kind == "damaged"]


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


def spoil(block):
    """With one NaN."""
    name = next(n for n in sorted(block) if block[n].dtype.kind == "f" and block[n].size)
    array = block[name].copy()
    array.reshape(-1)[-1] = np.nan
    return block.replace({name: array})


def spoil_block(session):
    return replace(session, block=spoil(session.block))


def spoil_both(session):
    block = spoil(session.block)
    return replace(session, block=block, good=block)


def make_huge(session):
    huge = {n: np.full_like(a, 2e30) for n, a in session.block.items()}
    return replace(session, block=Block(huge))


def spoil_good(session):
    return replace(session, good=spoil(session.good))


def spoil_slots(session):
    return replace(session, slots=spoil(session.slots))


def with_kept(session, kept):
    return replace(session, contexts=replace(session.contexts, kept=kept))


def spoil_root(session):
    kept = session.contexts.kept
    return with_kept(session, kept.with_root(spoil(kept.root), "a test"))


def spoil_leaf(session):
    kept = session.contexts.kept
    return with_kept(session, kept.with_leaf(1, spoil(kept.root)))


def spoil_guard(session):
    return replace(session, watch=replace(session.watch, evidence=Evidence(np.nan, 0.0)))


def with_present(session, **change):
    """With a change of what is known of the present context."""
    policy = session.contexts.policy
    changed = replace(policy.known[policy.present], **change)
    policy = replace(policy, known={**policy.known, policy.present: changed})
    return replace(session, contexts=replace(session.contexts, policy=policy))


def spoil_key(session):
    policy = session.contexts.policy
    key = policy.known[policy.present].key.copy()
    key[0] = np.inf
    return with_present(session, key=key)


def spoil_spread(session):
    return with_present(session, spread=np.inf)


SPOILT = [spoil_block, spoil_both, make_huge, spoil_good, spoil_slots, spoil_root, spoil_leaf,
          spoil_guard, spoil_key, spoil_spread]  # fmt: skip


@pytest.mark.parametrize("change", SPOILT)
def test_what_is_unsound_in_memory_gives_way_before_a_commit(tmp_path, visits, change):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, np.concatenate(visits[:2]))
        runtime.flush()
        step_all(runtime, visits[2][:BATCH])
        put_session(runtime, change(session_of(runtime)))
        runtime.flush()
        for arrays in (
            session_of(runtime).block,
            session_of(runtime).good,
            session_of(runtime).contexts.root,
        ):
            assert all(np.isfinite(a).all() and np.abs(a).max() < 1e30 for a in arrays.values())
        block = session_of(runtime).block
        told = [event.kind for event in notices_of(runtime)]
        results = step_all(runtime, visits[3])
        assert all(np.isfinite(result.logits).all() for result in results)
    kinds = {spoil_block: "restored", spoil_both: "restored", make_huge: "restored",
             spoil_root: "damaged", spoil_leaf: "damaged", spoil_key: "damaged",
             spoil_spread: "damaged"}  # fmt: skip
    assert told == [kinds[change]] if change in kinds else told == []
    with opened(path) as again:
        assert not damaged(again)
        assert all(np.isfinite(result.logits).all() for result in step_all(again, visits[0]))
    assert block.keys() == session_of(again).block.keys()


def test_the_last_good_block_comes_back_in_place_of_an_unsound_one(tmp_path, visits):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        good = session_of(runtime).good
        put_session(runtime, spoil_block(session_of(runtime)))
        runtime.flush()
        assert_same_arrays(session_of(runtime).block, good)
        assert not any(slot.any() for slot in session_of(runtime).slots.values())
    with opened(path) as again:
        assert_same_arrays(session_of(again).block, good)


def kept(path):
    with closing(State(path, None, read_only=True)) as state:
        return state.read()


def test_what_nothing_mends_is_not_written_and_the_last_commit_stays(tmp_path, visits, monkeypatch):
    monkeypatch.setattr(commits, "MOST_STEPS", 1)
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        runtime.flush()
        before = kept(path)
        ring_of(runtime).push(np.full((BATCH, *SPEC.shape), np.nan, np.float32))
        put_session(runtime, session_of(runtime))
        with pytest.raises(StateError, match="was not written.*its ring.*runtime.rollback"):
            runtime.flush()
        assert kept(path).counters == before.counters
        assert_same_arrays(kept(path).arrays, before.arrays)
        result = runtime.step(visits[1][:BATCH])  # a commit of its own has no frames in it
        assert not events([result], "unwritten") and len(result.labels) == BATCH
    with opened(path) as again:
        assert again.counters["frames"] == len(visits[0]) + BATCH


def test_a_commit_that_nobody_asked_for_tells_what_it_could_not_write(
    tmp_path, visits, monkeypatch
):
    monkeypatch.setattr(commits, "MOST_STEPS", 1)
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        step_all(runtime, visits[0])
        before = kept(path)
        with monkeypatch.context() as patch:
            patch.setattr(context_blocks, "sound", lambda contexts, files: (contexts, ()))
            put_session(runtime, spoil_spread(session_of(runtime)))
            (text,) = events([runtime.step(visits[0][:BATCH])], "unwritten")
        assert "would not fit the bundle (its contexts)" in text
        assert kept(path).counters == before.counters
    with opened(path) as again:
        assert again.counters["frames"] == len(visits[0]) + BATCH


def test_an_answer_that_is_no_number_is_told(monkeypatch):
    frames = np.random.default_rng(0).random((BATCH, *SPEC.shape)).astype(np.float32)
    with opened() as runtime:
        logits = np.zeros((BATCH, 10), np.float32)
        logits[3] = np.nan
        monkeypatch.setattr(Graphs, "predict", lambda _, window, *more: logits[-len(window) :])
        for result in (runtime.predict(frames), runtime.predict(frames, frozen=True)):
            (text,) = events([result], "overflow")
            assert "1 of 16 answers are no numbers" in text
