"""What `edgemem.testing` offers to tests of whatever uses a runtime."""

import textwrap
from dataclasses import replace

import numpy as np
import pytest

import edgemem
from edgemem import testing
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.errors import BundleError, InputError
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.step.graphs import Graphs
from edgemem.testing import (
    ScriptedBackend,
    WatchedBackend,
    batch_of,
    open_with,
    put_session,
    session_of,
    wait_for_step,
)

BATCH = 16


@pytest.fixture(scope="module")
def frames():
    """[n, 1, 8, 8] uint8; none are like the source's."""
    with np.load(STREAM) as stream:
        return stream["x"][stream["context"] == "fog"]


def engine():
    return OnnxRuntimeBackend(1)


def test_the_example_in_the_docstring_runs(frames):
    code = textwrap.dedent(testing.__doc__.split("\n\n", 2)[2])
    assert code.count("assert") == 2
    exec(compile(code, "example", "exec"), {"path": BUNDLE, "frames": frames[:BATCH]})  # noqa: S102


def test_a_bundle_opened_with_a_backend_does_what_edgemem_open_does(frames, tmp_path):
    with (
        open_with(BUNDLE, engine(), tmp_path / "a.db", contexts=False) as one,
        edgemem.open(BUNDLE, threads=1, options=edgemem.Options(contexts=False)) as other,
    ):
        for x in np.split(frames[: 4 * BATCH], 4):
            np.testing.assert_array_equal(one.step(x).logits, other.step(x).logits)
        expected = session_of(one).block
    with open_with(str(BUNDLE), engine(), tmp_path / "a.db") as again:
        assert again.counters["updates"] == 4
        assert session_of(again).block.has_values_of(expected)


def test_where_opening_fails_the_state_file_is_given_back(tmp_path):
    with pytest.raises(InputError, match="unknown to this bundle"):
        open_with(BUNDLE, engine(), tmp_path / "s.db", hyper_parameters={"no such": 1.0})
    with pytest.raises(BundleError):
        open_with(tmp_path, engine(), tmp_path / "s.db")
    open_with(BUNDLE, engine(), tmp_path / "s.db").close()


def test_a_runtime_goes_on_from_a_session_that_is_put_and_commits_it(tmp_path):
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        session = session_of(runtime)
        assert session.counters.frames == 0 and session.block is runtime.bundle.generic
        zero = runtime.bundle.manifest.block.zero()
        put_session(runtime, replace(session, block=zero).counting(frames=5))
        assert session_of(runtime).block is zero and runtime.counters["frames"] == 5
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as again:
        assert session_of(again).block.has_values_of(zero) and again.counters["frames"] == 5


def test_a_batch_asks_about_frames_that_do_not_come_in(frames):
    with edgemem.open(BUNDLE, threads=1) as runtime:
        before, batch = session_of(runtime), batch_of(runtime, frames[:BATCH])
        np.testing.assert_array_equal(
            batch.frozen(), runtime.predict(frames[:BATCH], frozen=True).logits
        )
        np.testing.assert_array_equal(
            batch.answers(before.block), runtime.predict(frames[:BATCH]).logits
        )
        assert session_of(runtime) is before and len(batch_of(runtime, frames[0])) == 1
        with pytest.raises(InputError, match="have shape"):
            batch_of(runtime, frames[:, :, :4])


def test_a_step_in_the_background_can_be_waited_for(frames):
    options = edgemem.Options(background=True, contexts=False)
    with edgemem.open(BUNDLE, threads=1, options=options) as runtime:
        wait_for_step(runtime)  # none runs
        runtime.step(frames[:BATCH])
        wait_for_step(runtime)
        assert runtime.counters["steps"] == 0
        assert runtime.step(frames[BATCH]).adapted and runtime.counters["steps"] == 1
    with edgemem.open(BUNDLE, threads=1) as runtime:
        wait_for_step(runtime)  # none ever runs


def test_a_watched_backend_notes_graphs_and_calls_and_changes_nothing(frames):
    backend = WatchedBackend(engine())
    with open_with(BUNDLE, backend, adapt=False) as runtime:
        assert list(backend.opened) == ["predict"] and not backend.calls
        found = runtime.predict(frames[:3], frozen=True)
        (call,) = backend.calls
        assert call.graph == "predict" and call.feeds["x"].shape == (3, 1, 8, 8)
        np.testing.assert_array_equal(call.outputs["logits"], found.logits)
    with edgemem.open(BUNDLE, threads=1) as runtime:
        np.testing.assert_array_equal(runtime.predict(frames[:3], frozen=True).logits, found.logits)


def test_a_watched_backend_answers_what_it_is_told_to(frames):
    backend = WatchedBackend(engine(), lambda call: {**call.outputs, "logits": np.ones((3, 10))})
    with open_with(BUNDLE, backend) as runtime:
        assert (runtime.predict(frames[:3], frozen=True).logits == 1).all()
        assert not (backend.calls[0].outputs["logits"] == 1).all()
        backend.change = lambda call: call.outputs
        assert not (runtime.predict(frames[:3], frozen=True).logits == 1).all()


def scripted(*script, **options):
    """Graphs whose bundle tells no contexts apart."""
    bundle = open_bundle(BUNDLE)
    bundle = replace(bundle, manifest=replace(bundle.manifest, source=None))
    return bundle, ScriptedBackend(bundle.manifest, *script, **options)


def test_a_script_is_followed_step_by_step(frames):
    bundle, backend = scripted({"add": 2.0}, {"loss": np.nan}, {"updated": 0.0}, {"logits": 3.0})
    graphs, slots = Graphs(bundle, backend), bundle.manifest.slots.zero()
    zero = bundle.manifest.block.zero()
    x = batch_frames(frames)
    first = graphs.adapt(x, zero, slots, {})
    for name, array in Block.named("next.block", first).items():
        np.testing.assert_array_equal(array, zero[name] + 2)
    assert (first["stat.loss"], first["stat.updated"]) == (1, 1)
    second, third = graphs.adapt(x, zero, slots, {}), graphs.adapt(x, zero, slots, {})
    assert np.isnan(second["stat.loss"]) and second["stat.updated"] == 1
    assert (third["stat.loss"], third["stat.updated"]) == (1, 0)
    assert Block.named("next.block", third).has_values_of(zero)
    fourth = graphs.adapt(x, zero, slots, {})["logits"]
    np.testing.assert_array_equal(fourth, graphs.predict(x, zero, {}) + 3)


def test_a_scripted_prediction_is_the_mean_of_the_first_array_up_to_a_limit(frames):
    bundle, backend = scripted(limit=1.5)
    graphs, zero = Graphs(bundle, backend), bundle.manifest.block.zero()
    name = bundle.manifest.block.arrays[0].name
    for value in (0.0, 1.5, 1.6):
        block = zero.replace({name: np.full_like(zero[name], value)})
        logits = graphs.predict(batch_frames(frames)[:3], block, {})
        assert logits.shape == (3, 10) and logits.dtype == np.float32
        assert (np.isnan(logits) if value > 1.5 else logits == np.float32(value)).all()


def batch_frames(frames):
    return (frames[:BATCH] / np.float32(255)).astype(np.float32)


def test_what_is_put_does_not_outlive_a_rollback(tmp_path):
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        generic = session_of(runtime).block
        put_session(runtime, replace(session_of(runtime), block=Block(generic)))
        runtime.rollback()
        assert session_of(runtime).block is generic
