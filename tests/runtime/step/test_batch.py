"""A batch: each answer is computed once, and the frozen model answers every frame by itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teachable import BATCH, CAPACITY, frames_of, stream_of, write_bundle

from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.batch import Batch
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.step.graphs import Graphs
from edgemem.testing import ScriptedBackend, WatchedBackend

SUMS, FRAMES = "prototypes.sums", "prototypes.frames"


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:
        return (stream["x"][stream["context"] == "fog"][:16] / np.float32(255)).astype(np.float32)


@pytest.fixture(scope="module")
def teachable(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("taught") / "t.edgemem"))


def watched(bundle, frames, **changed):
    """A batch of frames, and the backend that its graphs run on."""
    backend = WatchedBackend(OnnxRuntimeBackend(1))
    parameters = {n: p.default for n, p in bundle.manifest.hyper_parameters.items()}
    return Batch(frames, Graphs(bundle, backend), parameters | changed), backend


def count(backend, graph="predict"):
    return [call.graph for call in backend.calls].count(graph)


def taught(number):
    """As if one frame of that class had been taught."""
    sums, shown = np.zeros((CAPACITY, 6), np.float32), np.zeros(CAPACITY, np.float32)
    sums[number], shown[number] = frames_of(number)[0], 1
    return Block({SUMS: sums, FRAMES: shown})


ASKS = st.lists(
    st.tuples(st.sampled_from(["logits", "works", "frozen", "probe"]), st.integers(0, 2)),
    max_size=12,
)


@settings(max_examples=30)
@given(ASKS)
def test_each_answer_is_computed_once_however_often_and_of_whatever_copy(teachable, asks):
    batch, backend = watched(teachable, stream_of([0, 1], BATCH)[0])
    expected = set()
    for ask, number in asks:
        part = taught(number)  # another object each time
        block = teachable.generic.replace(part)
        if ask == "logits":
            batch.answers(block)
        elif ask == "works":
            assert batch.works(block)
        elif ask == "frozen":
            batch.frozen(part)
        else:
            batch.every(2).frozen(part)
            if ("frozen", number) in expected:
                continue  # the whole has answered for its parts
        expected.add(("own" if ask in ("logits", "works") else ask, number))
        assert count(backend) == len(expected)


def test_a_key_is_computed_once_even_where_it_is_no_number(frames):
    batch, backend = watched(open_bundle(BUNDLE), frames)
    assert np.isfinite(batch.key).all() and batch.key is batch.key
    assert count(backend, "key") == 1
    batch, backend = watched(open_bundle(BUNDLE), frames)
    backend.change = lambda call: {"key": np.full_like(call.outputs["key"], np.inf)}
    assert batch.key is None and batch.key is None
    assert count(backend, "key") == 1


def test_where_nothing_is_known_of_keys_there_is_none(frames):
    bundle = open_bundle(BUNDLE)
    bundle = replace(bundle, manifest=replace(bundle.manifest, source=None))
    batch, backend = watched(bundle, frames)
    assert batch.key is None and not backend.calls


@pytest.mark.parametrize("every", [2, 3, 16])
def test_a_parts_frozen_answers_are_those_of_its_frames_alone(frames, every):
    batch, _ = watched(open_bundle(BUNDLE), frames)
    part = batch.every(every)
    np.testing.assert_array_equal(part.frames, frames[::every])
    alone = [watched(open_bundle(BUNDLE), frame[None])[0].frozen() for frame in frames[::every]]
    np.testing.assert_allclose(part.frozen(), np.concatenate(alone), atol=1e-5)


def test_a_block_answers_a_part_as_a_batch_of_its_own(frames):
    """Statistics are taken over the frames of the batch."""
    bundle = open_bundle(BUNDLE)
    batch, backend = watched(bundle, frames)
    part = batch.every(2)
    assert batch.every(2) is part and batch.every(1) is batch
    own, _ = watched(bundle, frames[::2])
    np.testing.assert_array_equal(part.answers(bundle.generic), own.answers(bundle.generic))
    assert not np.allclose(
        part.answers(bundle.generic), batch.answers(bundle.generic)[::2], atol=0.1
    )
    assert count(backend) == 2


@pytest.mark.parametrize("n", [1, 5, 15, 16, 40])
def test_the_last_frames_are_a_batch_of_their_own(frames, n):
    batch, _ = watched(open_bundle(BUNDLE), frames)
    last = batch.last(n)
    np.testing.assert_array_equal(last.frames, frames[-n:])
    assert len(last) == min(n, 16) and (last is batch) == (n >= 16)


def test_what_was_taught_is_part_of_the_frozen_answer_unless_it_fails(teachable):
    x = frames_of(3, 4)
    batch, backend = watched(teachable, x, prototype_weight=1.0)
    assert (batch.frozen(taught(3)).argmax(1) == 3).all()
    assert not (batch.frozen().argmax(1) == 3).any()
    broken = Block({SUMS: np.full((CAPACITY, 6), np.nan, np.float32), FRAMES: taught(3)[FRAMES]})
    assert not batch.works(teachable.generic.replace(broken))
    np.testing.assert_array_equal(batch.frozen(broken), batch.frozen())
    before = count(backend)
    batch.frozen(broken)
    assert count(backend) == before


def test_answers_hold_for_the_hyper_parameters_the_batch_was_made_with(teachable):
    x = stream_of([0, 1], BATCH)[0]
    one, _ = watched(teachable, x, prototype_weight=0.0)
    other, _ = watched(teachable, x, prototype_weight=1.0)
    block = teachable.generic.replace(taught(1))
    assert not np.allclose(one.answers(block), other.answers(block))


def test_a_step_changes_nothing():
    bundle = open_bundle(BUNDLE)
    backend = ScriptedBackend(bundle.manifest, {"add": 1.0}, {"add": 1.0})
    batch = Batch(np.zeros((16, 1, 8, 8), np.float32), Graphs(bundle, backend), {})
    slots = bundle.manifest.slots.zero()
    first, second = batch.step(bundle.generic, slots), batch.step(bundle.generic, slots)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
    found = Block.named("next.block", first)
    for name, array in bundle.generic.items():
        np.testing.assert_array_equal(found[name], array + 1)
