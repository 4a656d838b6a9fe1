"""Closing, reopening and going back: what a state file brings back, and what it does not touch."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opening import opened_with

import edgemem
from edgemem.block import pack
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.state.store import State
from edgemem.testing import session_of, state_of

IDENTITY = open_bundle(BUNDLE).identity


def opened(state=None, bundle=BUNDLE, **options):
    return opened_with(bundle, state, threads=1, **options)


def committed(path, identity=IDENTITY):
    """The newest snapshot as bytes."""
    with closing(State(path, identity)) as state:
        snapshot = state.read()
    return pack(snapshot.arrays), snapshot.counters


def version(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT max(version) FROM snapshot").fetchone()[0]


@settings(max_examples=6)
@given(st.integers(0, 70), st.integers(1, 20))
def test_reopened_anywhere_it_continues_bit_for_bit(tmp_path_factory, digits_stream, cut, size):
    x, _ = digits_stream
    path = tmp_path_factory.mktemp("state") / "s.db"
    whole = opened()
    with opened(path) as runtime:
        if cut:
            runtime.step(x[:cut])
            whole.step(x[:cut])
    with opened(path) as runtime:
        assert runtime.counters == whole.counters
        for start in range(cut, cut + 40, size):
            frames = x[start : start + size]
            expected = whole.predict(frames).logits
            np.testing.assert_array_equal(runtime.predict(frames).logits, expected)
            expected = whole.step(frames).logits
            np.testing.assert_array_equal(runtime.step(frames).logits, expected)
        assert runtime.counters == whole.counters
        for name, array in session_of(whole).slots.items():
            np.testing.assert_array_equal(session_of(runtime).slots[name], array)


def test_versions_grow_with_every_flush_and_steps_write_nothing(tmp_path, digits_stream):
    x, _ = digits_stream
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(x[:16])
        runtime.flush()
        write_ahead = tmp_path / "s.db-wal"
        before = path.read_bytes(), write_ahead.read_bytes()
        runtime.step(x[16:200])
        assert (path.read_bytes(), write_ahead.read_bytes()) == before
        runtime.flush()
    assert version(path) == 2


def test_the_state_of_another_bundle_is_refused_and_stays(tmp_path, bundle, seal, digits_stream):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(digits_stream[0][:40])
    before = committed(path)
    seal(bundle, lambda manifest: manifest.update(name="another"))
    with pytest.raises(edgemem.StateError, match="another bundle.*with the bundle that wrote it"):
        opened(path, bundle)
    assert committed(path) == before


def test_refused_frames_leave_what_was_committed(tmp_path, digits_stream):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(digits_stream[0][:40])
    before = committed(path), version(path)
    with pytest.raises(edgemem.InputError, match="shape"), opened(path) as runtime:
        runtime.step(np.zeros((4, 3, 8, 8), np.float32))
    assert (committed(path), version(path)) == before


def test_a_runtime_that_changed_nothing_leaves_no_file_and_no_new_version(tmp_path, digits_stream):
    x, _ = digits_stream
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.predict(x[:40])
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with opened(path) as runtime:
        runtime.flush()
    with opened(path) as runtime:
        runtime.predict(x[:40])
    assert version(path) == 1
    with opened(path) as runtime:
        runtime.rollback("zero")
    assert version(path) == 2


def test_unknown_options_leave_no_state_file(tmp_path):
    for options in ({"hyper_parameters": {"nonsense": 1.0}}, {"threads": -1}):
        with pytest.raises(edgemem.InputError):
            opened_with(BUNDLE, tmp_path / "s.db", **options)
    with pytest.raises(edgemem.BundleError):
        edgemem.open(tmp_path / "missing.edgemem", tmp_path / "s.db", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_leave_an_old_state_file_as_it_was(tmp_path, digits_stream):
    path = tmp_path / "s.db"
    with opened(path) as runtime:
        runtime.step(digits_stream[0][:40])
    before = committed(path)
    with pytest.raises(edgemem.InputError, match="It has alpha"):
        opened(path, hyper_parameters={"nonsense": 1.0})
    assert committed(path) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_hyper_parameter_is_refused_on_opening(value):
    with pytest.raises(edgemem.InputError, match=r"'alpha': is (nan|inf)\. Pass a finite number"):
        opened(hyper_parameters={"alpha": value})


def test_a_refused_commit_leaves_runtime_and_file_usable(tmp_path, digits_stream):
    x, _ = digits_stream
    path = tmp_path / "s.db"
    runtime = opened(path)
    runtime.step(x[:20])
    runtime.flush()
    state_of(runtime).rows("PRAGMA max_page_count = 1")  # a full disk
    runtime.step(x[20:40])
    with pytest.raises(edgemem.StateError, match=r"s\.db: cannot be used.*full"):
        runtime.flush()
    runtime.rollback()
    expected = opened()
    expected.step(x[:20])
    for name, array in session_of(expected).block.items():
        np.testing.assert_array_equal(session_of(runtime).block[name], array)
    runtime.close()  # what could not be committed is given up, and the file is free again
    with opened(path) as again:
        assert again.counters["frames"] == 20


def test_every_rollback_gives_the_block_it_names(tmp_path, digits_stream):
    x, _ = digits_stream
    with opened(tmp_path / "s.db") as runtime:
        for target, block in (
            ("zero", runtime.bundle.manifest.block.zero()),
            ("source", runtime.bundle.generic),
        ):
            runtime.step(x[:48])
            runtime.rollback(target)
            for name, array in block.items():
                np.testing.assert_array_equal(session_of(runtime).block[name], array)
            assert not any(slot.any() for slot in session_of(runtime).slots.values())
        runtime.step(x[:48])
        runtime.rollback("commit")  # nothing was committed yet
        assert session_of(runtime).block is runtime.bundle.generic


def test_without_a_state_file_rollback_takes_the_source_and_flush_is_nothing(digits_stream):
    runtime = opened()
    runtime.step(digits_stream[0][:48])
    runtime.flush()
    runtime.rollback()
    assert session_of(runtime).block is runtime.bundle.generic


def test_a_closed_runtime_refuses_every_verb(tmp_path):
    runtime = opened(tmp_path / "s.db")
    runtime.close()
    runtime.close()
    frames = np.zeros((1, 1, 8, 8), np.float32)
    for verb in (lambda: runtime.predict(frames), lambda: runtime.step(frames), runtime.flush,
                 runtime.rollback):  # fmt: skip
        with pytest.raises(edgemem.InputError, match="runtime: is closed. Open the bundle again"):
            verb()


def test_an_error_inside_the_with_block_still_commits_and_is_raised(tmp_path, digits_stream):
    path = tmp_path / "s.db"
    with pytest.raises(ZeroDivisionError), opened(path) as runtime:
        runtime.step(digits_stream[0][:40])
        raise ZeroDivisionError
    assert committed(path)[1]["frames"] == 40


def test_frozen_answers_alike_before_and_after_a_life_of_steps(tmp_path, digits_stream):
    x, _ = digits_stream
    parameters = open_bundle(BUNDLE).manifest.hyper_parameters
    frozen = {name: parameter.frozen for name, parameter in parameters.items()}
    zeros = opened(adapt=False, hyper_parameters=frozen)
    zeros.rollback("zero")
    # Source statistics: frames do not see each other, so one by one is the same.
    expected = np.concatenate([zeros.predict(frame).logits for frame in x[:40]])
    with opened(tmp_path / "s.db", hyper_parameters={"learning_rate": 0.05}) as runtime:
        for _ in range(3):
            found = runtime.predict(x[:40], frozen=True)
            limit = 1e-5 * max(1.0, np.abs(expected).max())
            assert np.abs(found.logits - expected).max() <= limit
            runtime.step(x[:480])
        assert np.abs(runtime.predict(x[:40]).logits - expected).max() > 0.1
