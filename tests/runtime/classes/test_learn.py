"""Classes taught with labelled frames: learnt, refused, renamed, forgotten, and kept on disk."""

from contextlib import closing

import numpy as np
import pytest
from taught_runs import CAT, COW, DOG, everything, opened, step_all, table
from teachable import BATCH, CAPACITY, OWN, frames_of, stream_of

from edgemem.demo import BUNDLE
from edgemem.errors import InputError
from edgemem.runtime.classes.labels import checked_labels
from edgemem.runtime.classes.lesson import groups
from edgemem.state.store import State
from edgemem.testing import session_of


def test_a_few_frames_open_a_class_and_nothing_else_is_called_so(bundle, options):
    with opened(bundle, **options) as runtime:
        x, y = stream_of([0, 1], 4 * BATCH)
        step_all(runtime, x)
        result = runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        assert result.adapted and result.logits.shape == (3, CAPACITY)
        assert [e.message for e in result.events] == ["'cat' from 3 labelled frames"]
        assert CAT not in result.labels  # they were predicted before
        assert (runtime.predict(frames_of(CAT, 5, seed=1)).labels == CAT).all()
        assert (runtime.predict(x).labels == y).all()
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0), 2: ("cat", 3)}
        frozen = runtime.predict(frames_of(CAT, 5), frozen=True)
        assert (frozen.logits[:, len(OWN) :] == -1e4).all()


def test_one_bare_frame_with_one_bare_label(bundle):
    with opened(bundle) as runtime:
        for label, frame in (("cat", frames_of(CAT)[0]), (3, frames_of(DOG)[0])):
            assert runtime.learn(frame, label).logits.shape == (1, CAPACITY)
        runtime.learn(frames_of(CAT), np.int64(CAT))
        runtime.learn(frames_of(CAT), np.array("cat"))
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0), 2: ("cat", 3), 3: ("3", 1)}


def test_own_classes_can_be_taught_by_name_and_number(bundle):
    with opened(bundle) as runtime:
        runtime.learn(np.concatenate([frames_of(0, 2), frames_of(1, 2)]), ["left", 0, 1, "right"])
        assert table(runtime) == {0: ("left", 2), 1: ("right", 2)}


def test_more_frames_than_a_batch_are_learnt_in_groups(bundle):
    x, y = stream_of([CAT, DOG, COW], 3 * BATCH + 1)
    with opened(bundle, hyper_parameters={"learn_rate": 0.0}) as runtime:
        result = runtime.learn(x, y)
        frames = session_of(runtime).block["prototypes.frames"]
        np.testing.assert_array_equal(frames, np.bincount(y, minlength=CAPACITY))
        sums = [x[y == number].sum(0) for number in (CAT, DOG, COW)]
        np.testing.assert_allclose(
            session_of(runtime).block["prototypes.sums"][2:], sums, rtol=1e-5
        )
        # A group's logits are from before it: the first knows nothing, the last everything.
        assert (result.labels[:3] < len(OWN)).all() and (result.labels[-3:] == y[-3:]).all()
        assert (runtime.predict(x).labels == y).all()


def test_groups_take_classes_in_turn():
    assert list(groups([7, 7, 7, 8, 9, 9], 4)) == [[0, 3, 4, 1], [5, 2]]
    assert list(groups([1], 4)) == [[0]]


def test_without_a_gradient_a_block_takes_running_means_alone(bundle):
    with opened(bundle, hyper_parameters={"learn_rate": 0.0}) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        assert not session_of(runtime).block["shift"].any()
    with opened(bundle) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        assert session_of(runtime).block["shift"].any()


def test_ways_to_read(bundle):
    answers = {}
    for read in ("mixed", "prototypes", "classifier"):
        with opened(bundle, read=read) as runtime:
            runtime.learn(np.concatenate([frames_of(CAT), frames_of(0)]), ["cat", 0])
            assert runtime.hyper_parameters["prototype_weight"] == {
                "mixed": 0.5, "prototypes": 1.0, "classifier": 0.0,
            }[read]  # fmt: skip
            answers[read] = runtime.predict(frames_of(CAT, seed=3)).logits
    with opened(bundle) as runtime:
        runtime.learn(np.concatenate([frames_of(CAT), frames_of(0)]), ["cat", 0])
        np.testing.assert_array_equal(
            runtime.predict(frames_of(CAT, seed=3)).logits, answers["mixed"]
        )
    assert not np.allclose(answers["mixed"], answers["prototypes"])
    own = {"prototype_weight": 0.25}
    with opened(bundle, read="prototypes", hyper_parameters=own) as runtime:
        assert runtime.hyper_parameters["prototype_weight"] == 0.25


def test_a_way_to_read_must_be_known(bundle):
    with pytest.raises(InputError, match="Use one of mixed, prototypes, classifier"):
        opened(bundle, read="both")
    with pytest.raises(InputError, match="learns no classes.*--max-classes"):
        opened(BUNDLE, read="mixed")


def test_the_same_frame_may_come_twice_with_one_label(bundle):
    with opened(bundle) as runtime:
        runtime.learn(np.repeat(frames_of(CAT), 2, 0), ["cat", "cat"])
        assert table(runtime)[CAT] == ("cat", 2)
    assert checked_labels(np.array(["a", "b"]), 2) == ["a", "b"]


def test_what_was_taught_is_on_disk_when_learn_returns(bundle, options, tmp_path):
    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    with opened(bundle, path, **options) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        runtime.rename_class("left", "port")
        expected = everything(runtime), runtime.predict(frames_of(CAT, 3)).logits
        for end in ("", "-wal"):
            (tmp_path / f"copy.db{end}").write_bytes((tmp_path / f"s.db{end}").read_bytes())
    for state in (path, copy):
        with opened(bundle, state, **options) as runtime:
            assert table(runtime) == {0: ("port", 0), 1: ("right", 0), 2: ("cat", 3)}
            assert everything(runtime)[1] == expected[0][1]
            np.testing.assert_array_equal(runtime.predict(frames_of(CAT, 3)).logits, expected[1])


def test_a_table_that_does_not_fit_gives_way_to_the_one_before_it(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
    with closing(State(path, None)) as state:
        snapshot = state.read()
        snapshot.arrays["classes.table"] = np.frombuffer(b"{}", np.uint8)
        state.write(snapshot)
    with opened(bundle, path) as runtime:
        assert table(runtime)[CAT] == ("cat", 3)
        events = runtime.step(frames_of(CAT)).events
        (event,) = [event for event in events if event.kind == "damaged"]
        assert "classes of a commit does not fit" in event.message


def test_a_snapshot_without_a_table_names_what_its_block_knows(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
    with closing(State(path, None)) as state:
        snapshot = state.read()
        del snapshot.arrays["classes.table"]
        state.write(snapshot)
        state.write(snapshot)  # neither of the two that are kept has names
    with opened(bundle, path) as runtime:
        assert table(runtime)[CAT] == ("class-2", 0)
        runtime.rename_class("class-2", "cat")
    with opened(bundle, path) as runtime:
        assert table(runtime)[CAT] == ("cat", 0)
