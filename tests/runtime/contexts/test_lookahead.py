"""Single frames: few companions where the block knows its context, and changes seen early."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opening import opened_with

from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.contexts.lookahead import LOOK, Companions, Lookahead
from edgemem.runtime.contexts.recognition import NONE, Context, Contexts
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.guard.frozen_share import used
from edgemem.runtime.loop import Runtime
from edgemem.testing import WatchedBackend, open_with, put_session, session_of

BATCH, KNOWN = 16, 15


@pytest.fixture(scope="module")
def stream():
    with np.load(STREAM) as held:
        return held["x"], held["y"], held["context"]


def opened(**options):
    return opened_with(BUNDLE, threads=1, **options)


def windows(backend):
    """Sizes of the windows that went through `predict`."""
    return [len(call.feeds["x"]) for call in backend.calls if call.graph == "predict"]


def test_companions_are_few_once_the_block_knows_its_context(stream):
    x = stream[0][stream[2] == "fog"]
    backend = WatchedBackend(OnnxRuntimeBackend(1))
    with open_with(BUNDLE, backend, contexts=False) as runtime:
        for frame in x[: BATCH - 1]:
            runtime.step(frame)
        assert windows(backend) == list(range(1, BATCH))
        runtime.step(x[BATCH - 1])
        assert runtime.counters["steps"] == 1
        assert used(session_of(runtime).share.of_frozen) == 0
        backend.calls.clear()
        runtime.step(x[BATCH])
        assert windows(backend) == [1 + KNOWN]


def test_predict_takes_the_companions_that_step_would(stream):
    x, _, _ = stream
    with opened(contexts=False) as runtime:
        runtime.step(x[: 2 * BATCH])
        for n in (1, 3, BATCH - 1):
            expected = runtime.predict(x[2 * BATCH :][:n]).logits
            with_step = opened(contexts=False)
            with_step.step(x[: 2 * BATCH])
            np.testing.assert_array_equal(with_step.step(x[2 * BATCH :][:n]).logits, expected)


def looks_of(found):
    """A glimpse that finds these blocks in turn, and how far keys were said to scatter."""
    found, noises = list(found), []

    def glimpse(noise):
        noises.append(noise)
        return found.pop(0)

    return glimpse, noises


def test_another_block_answers_after_two_looks_and_until_one_finds_the_present_context():
    bundle = open_bundle(BUNDLE)
    companions, own, other = Companions(bundle), bundle.generic, Block(bundle.generic)
    glimpse, noises = looks_of([None, other, other, other, None])
    lookahead, chosen = Lookahead(), []
    for _ in range(LOOK + 16):
        lookahead = lookahead.after(1, 64, glimpse)
        chosen.append(companions.chosen(lookahead, own, 1))
    assert noises == [2.0] * 5
    borrowed = [block is other for block, _ in chosen]
    assert borrowed.index(True) == LOOK + 7 and sum(borrowed) == 8
    assert [n for block, n in chosen if block is other] == [LOOK + 4] * 4 + [LOOK + 8] * 4
    borrowing = Lookahead(LOOK + 8, 3, 3, other)
    assert companions.chosen(borrowing, own, 1)[0] is other
    assert companions.chosen(borrowing.dropped(), own, 1)[0] is own
    assert borrowing.dropped().since == LOOK + 8


def test_a_single_false_look_changes_nothing():
    bundle = open_bundle(BUNDLE)
    companions, lookahead = Companions(bundle), Lookahead()
    glimpse, noises = looks_of([Block(bundle.generic), None, None])
    for _ in range(LOOK + 8):
        lookahead = lookahead.after(1, 64, glimpse)
        assert companions.chosen(lookahead, bundle.generic, 1)[0] is bundle.generic
    assert len(noises) == 3


@given(st.lists(st.integers(1, 9), max_size=30))
def test_looks_begin_with_enough_frames_and_come_at_most_every_few(calls):
    glimpse, noises = looks_of([None] * 100)
    lookahead, since = Lookahead(), 0
    for n in calls:
        before, since = len(noises), since + n
        lookahead = lookahead.after(n, 64, glimpse)
        assert lookahead.since == since
        due = since >= LOOK and (since - n < LOOK or since // 4 > (since - n) // 4)
        assert len(noises) == before + due


@pytest.mark.parametrize("batch", [8, LOOK])
def test_in_batches_no_longer_than_a_look_nobody_looks(batch):
    lookahead = Lookahead()
    for _ in range(4 * LOOK):
        lookahead = lookahead.after(1, batch, None)
    assert lookahead.since == 4 * LOOK and lookahead.looks == 0


@pytest.mark.parametrize("present", [NONE, 1])
def test_without_a_context_nobody_looks(stream, present):
    bundle, backend = open_bundle(BUNDLE), WatchedBackend(OnnxRuntimeBackend(1))
    frames = replace(bundle.manifest.frames, batch=64)
    bundle = replace(bundle, manifest=replace(bundle.manifest, frames=frames, familiar=False))
    context = Context(1, np.zeros(bundle.manifest.key, np.float32), 1, 1.0)
    with Runtime(bundle, backend) as runtime:
        session = session_of(runtime)
        contexts = replace(session.contexts, policy=Contexts({1: context}, present))
        put_session(runtime, replace(session, contexts=contexts))
        for frame in stream[0][: LOOK + 8]:
            runtime.step(frame)
        looks = [len(call.feeds["x"]) for call in backend.calls if call.graph == "key"]
    assert looks == ([] if present == NONE else [LOOK] * 3)
