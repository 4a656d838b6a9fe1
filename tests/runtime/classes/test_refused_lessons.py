"""Lessons that cannot be given are refused by name, and change nothing."""

import numpy as np
import pytest
from taught_runs import CAT, DOG, everything, opened, step_all
from teachable import BATCH, CAPACITY, frames_of, stream_of, write_bundle

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import InputError, StateError
from edgemem.state.store import State


def bad_calls():
    cat, nan = frames_of(CAT), np.full((1, 6), np.nan, np.float32)
    same = np.repeat(cat, 2, 0)
    return {
        "range": (cat, [CAPACITY], "label 5: is not one of the 5 classes"),
        "negative": (cat, [-1], "label -1"),
        "bool": (cat, [True], "label True: is a bool"),
        "numpy bool": (cat, np.array([True]), "is a bool"),
        "float": (cat, [2.0], "label 2.0: is a float"),
        "float array": (cat, np.array([2.0]), "is a float"),
        "none": (cat, None, "labels: are a NoneType"),
        "bytes": (cat, [b"cat"], "is a bytes"),
        "nested": (cat, np.zeros((1, 1), int), "have shape"),
        "too few": (same, ["cat"], "are 1 for 2 frames"),
        "too many": (cat, ["cat", "dog"], "are 2 for 1 frames"),
        "capacity": (frames_of(CAT, 4), list("abcd"), r"new classes \(4\): do not fit: 2 of 5"),
        "contradiction": (same, ["cat", "dog"], "frames 0 and 1: are the same"),
        "no name": (cat, [""], "is empty"),
        "not finite": (nan, ["cat"], "hold NaN"),
        "no frames": (cat[:0], [], "are empty"),
        "shape": (cat[:, :5], ["cat"], "have shape"),
        "too large": (np.full((1, 6), 3e38, np.float32), ["cat"], r"beyond 1e\+15"),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_bad_input_is_a_clear_error_and_changes_nothing(name, bundle, tmp_path):
    frames, labels, message = bad_calls()[name]
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(DOG, 2), ["dog"] * 2)
        runtime.forget_class("dog")
        before = everything(runtime), path.read_bytes(), (tmp_path / "s.db-wal").read_bytes()
        with pytest.raises(InputError, match=message):
            runtime.learn(frames, labels)
        after = everything(runtime), path.read_bytes(), (tmp_path / "s.db-wal").read_bytes()
        assert after == before


def test_a_single_class_is_not_enough(tmp_path):
    with opened(write_bundle(tmp_path / "one.edgemem", labels=("only",))) as runtime:
        with pytest.raises(InputError, match="are of the only class there is"):
            runtime.learn(frames_of(0, 2), ["only"] * 2)
        runtime.learn(np.concatenate([frames_of(0), frames_of(1)]), ["only", "other"])


def test_a_bundle_without_learn_says_so():
    with opened(BUNDLE) as runtime:
        frames = np.zeros((1, 1, 8, 8), np.uint8)
        for call in (
            lambda: runtime.learn(frames, ["cat"]),
            lambda: runtime.forget_class("3"),
            lambda: runtime.rename_class("3", "three"),
        ):
            with pytest.raises(InputError, match="learns no classes. Export it again with --max-"):
                call()
        assert [info.name for info in runtime.classes()] == [str(n) for n in range(10)]


def test_a_closed_runtime_says_so(bundle):
    runtime = opened(bundle)
    runtime.close()
    for call in (
        lambda: runtime.learn(frames_of(CAT), ["cat"]),
        lambda: runtime.forget_class("cat"),
        lambda: runtime.rename_class(0, "port"),
    ):
        with pytest.raises(InputError, match="is closed"):
            call()


def refuse(*arguments):
    raise StateError("disk", "cannot be used", "Wait")


@pytest.mark.parametrize("call", ["learn", "forget", "rename"])
def test_a_refused_commit_changes_nothing(call, bundle, options, tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    with opened(bundle, path, **options) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        runtime.flush()
        before, on_disk = everything(runtime), path.read_bytes()
        calls = {
            "learn": lambda: runtime.learn(frames_of(DOG, 3), ["dog"] * 3),
            "forget": lambda: runtime.forget_class("cat"),
            "rename": lambda: runtime.rename_class("cat", "dog"),
        }
        with monkeypatch.context() as patch:
            patch.setattr(State, "write", refuse)
            with pytest.raises(StateError):
                calls[call]()
        assert everything(runtime) == before and path.read_bytes() == on_disk
        calls[call]()
        assert everything(runtime) != before


def test_a_lesson_that_overflows_is_refused_and_changes_nothing(bundle):
    with opened(bundle) as runtime:
        runtime.learn(frames_of(DOG, 2), ["dog"] * 2)
        before = everything(runtime)
        runtime.hyper_parameters.set(learn_rate=3e38)
        with pytest.raises(InputError, match="give nothing finite"):
            runtime.learn(frames_of(CAT, 1), ["cat"])
        assert everything(runtime) == before


def test_the_graph_must_be_there_for_the_engine(bundle, tmp_path, monkeypatch):
    with opened(bundle) as runtime:
        monkeypatch.setattr(type(runtime.bundle.manifest), "binding", lambda *_: None)
        with pytest.raises(InputError, match="has no 'learn' graph.*provider=.cpu"):
            runtime.learn(frames_of(CAT), ["cat"])
    assert open_bundle(bundle).manifest.classes == CAPACITY
