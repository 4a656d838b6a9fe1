"""Classes taught with labelled frames: learnt, refused, renamed, forgotten, and kept on disk."""

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from context_runs import blocks_of
from opening import opened_with
from teachable import BATCH, CAPACITY, FEATURES, OWN, frames_of, stream_of, write_bundle

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import InputError, StateError
from edgemem.runtime.classes.labels import checked_labels
from edgemem.runtime.classes.lesson import groups
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.loop import Runtime
from edgemem.state.store import State
from edgemem.testing import put_session, session_of

CAT, DOG, COW = 2, 3, 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("taught") / "t.edgemem")


@pytest.fixture(params=["contexts", "one block", "predict only"])
def options(request):
    """Ways to open a bundle."""
    return {
        "contexts": {},
        "one block": {"contexts": False},
        "predict only": {"adapt": False},
    }[request.param]


def opened(bundle, state=None, **options):
    return opened_with(bundle, state, threads=1, **options)


def step_all(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def table(runtime):
    return {info.index: (info.name, info.frames) for info in runtime.classes()}


def everything(runtime):
    """All that learning could change, in memory."""
    session = session_of(runtime)
    kept = session.contexts.kept
    blocks = [session.block, session.good, session.slots, kept.root, *kept.leaves.values()]
    arrays = [np.asarray(array) for block in blocks for array in block.values()]
    return b"".join(array.tobytes() for array in arrays), runtime.classes()


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


def rows_of(runtime, number):
    """Bytes of the prototype of a class, in whatever is in use."""
    session = session_of(runtime)
    kept = session.contexts.kept
    blocks = [session.block, session.good, kept.root, *kept.leaves.values()]
    rows = [block["prototypes.sums"][number] for block in blocks]
    return {row.tobytes() for row in rows if row.any()}


def rows_on_disk(path, number):
    """The same, of all versions of all written blocks and of the snapshots."""
    arrays = [block["prototypes.sums"] for _, block in blocks_of(path).values()]
    with closing(State(path, None)) as state:
        snapshot = state.read().arrays
    arrays += [snapshot[f"{name}.prototypes.sums"] for name in ("block", "good")]
    return {array[number].tobytes() for array in arrays if array[number].any()}


def test_a_forgotten_class_is_nowhere_on_disk(bundle, options, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path, **options) as runtime:
        found = set()
        for away in (0, 1, 0):
            step_all(runtime, stream_of([0, 1], 3 * BATCH, away=away)[0])
            runtime.learn(frames_of(CAT, 3, away=away), ["cat"] * 3)
            runtime.learn(frames_of(DOG, 2, away=away), ["dog"] * 2)
            found |= rows_of(runtime, CAT)
    found |= rows_on_disk(path, CAT)
    content = path.read_bytes()
    assert len(found) > 1 and any(row in content for row in found)
    with opened(bundle, path, **options) as runtime:
        runtime.forget_class("cat")
        for file in (path, tmp_path / "s.db-wal"):
            content = file.read_bytes()
            assert not any(row in content for row in found) and b"cat" not in content
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0), 3: ("dog", 6)}
        assert (runtime.predict(frames_of(CAT, 5)).logits[:, CAT] == -1e4).all()
        for away in (0, 1):
            x, y = stream_of([DOG, 1], 3 * BATCH, seed=2, away=away)
            for result in step_all(runtime, x):
                assert (result.logits[:, CAT] == -1e4).all()
            assert (result.labels == y[-BATCH:]).all()
    assert not rows_on_disk(path, CAT) and rows_on_disk(path, DOG)


def test_what_one_way_of_opening_taught_another_forgets(bundle, tmp_path):
    """Blocks of contexts are in the file even while contexts are not told apart."""
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
    with opened(bundle, path, contexts=False) as runtime:
        assert (runtime.predict(frames_of(CAT, 3)).labels == CAT).all()
        runtime.forget_class(CAT)
    assert not rows_on_disk(path, CAT)
    with opened(bundle, path) as runtime:
        results = step_all(runtime, stream_of([0, 1], 2 * BATCH)[0])
        assert (results[-1].logits[:, CAT] == -1e4).all() and CAT not in table(runtime)


def test_own_classes_forget_what_they_were_taught(bundle, options):
    with opened(bundle, **options) as runtime:
        expected = runtime.predict(frames_of(0, 3)).logits
        runtime.learn(frames_of(0, 3), [0] * 3)
        runtime.hyper_parameters.set(prior_weight=0.0)
        runtime.forget_class("left")
        session = session_of(runtime)
        still = session.block.replace({"shift": np.zeros(FEATURES, np.float32)})
        put_session(runtime, replace(session, block=still))
        np.testing.assert_array_equal(runtime.predict(frames_of(0, 3)).logits, expected)
        with pytest.raises(InputError, match="nothing was taught of it"):
            runtime.forget_class("left")


def test_forget_and_rename_refuse_what_is_not_there(bundle):
    with opened(bundle) as runtime:
        for label in ("cat", 2, -1, True, 1.0, None):
            with pytest.raises(InputError):
                runtime.forget_class(label)
            with pytest.raises(InputError):
                runtime.rename_class(label, "dog")
        for name in ("right", "", None, 3):
            with pytest.raises(InputError):
                runtime.rename_class("left", name)
        assert table(runtime) == {0: ("left", 0), 1: ("right", 0)}


def test_a_damaged_block_stops_forgetting(bundle, tmp_path):
    path = tmp_path / "s.db"
    state = State(path, open_bundle(bundle).identity)
    with Runtime(open_bundle(bundle), OnnxRuntimeBackend(1), state=state) as runtime:
        for away in (0, 1):
            step_all(runtime, stream_of([0, 1], 3 * BATCH, away=away)[0])
            runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        (row,) = state.rows(
            "SELECT row FROM block WHERE id = 'context-1' ORDER BY version DESC LIMIT 1"
        )[0]
        state.rows("UPDATE payload SET content = x'00' WHERE row = ?", row)
        before = everything(runtime)
        with pytest.raises(StateError, match="block 'context-1': is damaged"):
            runtime.forget_class("cat")
        assert everything(runtime) == before


@contextmanager
def reading(path):
    """Somebody else reads the state file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM snapshot").fetchall()
        yield


def test_a_reader_keeps_the_bytes_in_the_log_and_that_is_said(bundle, tmp_path):
    path = tmp_path / "s.db"
    with opened(bundle, path) as runtime:
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        with reading(path), pytest.raises(StateError, match="is being read"):
            runtime.forget_class("cat")
        assert CAT not in table(runtime)
    with opened(bundle, path) as runtime:
        assert CAT not in table(runtime)


def test_a_lesson_that_overflows_is_refused_and_changes_nothing(bundle):
    with opened(bundle) as runtime:
        runtime.learn(frames_of(DOG, 2), ["dog"] * 2)
        before = everything(runtime)
        runtime.hyper_parameters.set(learn_rate=3e38)
        with pytest.raises(InputError, match="give nothing finite"):
            runtime.learn(frames_of(CAT, 1), ["cat"])
        assert everything(runtime) == before


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


def test_the_graph_must_be_there_for_the_engine(bundle, tmp_path, monkeypatch):
    with opened(bundle) as runtime:
        monkeypatch.setattr(type(runtime.bundle.manifest), "binding", lambda *_: None)
        with pytest.raises(InputError, match="has no 'learn' graph.*provider=.cpu"):
            runtime.learn(frames_of(CAT), ["cat"])
    assert open_bundle(bundle).manifest.classes == CAPACITY
