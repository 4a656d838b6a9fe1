"""Single frames: few companions where the block knows its context, and changes seen early."""

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.lookout import LOOK, Lookout
from edgemem.runtime.opinion import used

BATCH, KNOWN = 16, 15


@pytest.fixture(scope="module")
def stream():
    with np.load(STREAM) as held:
        return held["x"], held["y"], held["context"]


def opened(**options):
    return edgemem.open(BUNDLE, threads=1, **options)


def windows(runtime):
    """Sizes of the windows that go through `predict` from now on, and which block answers."""
    seen, original = [], runtime._graphs.predict

    def predict(window, block, parameters):
        seen.append((len(window), block))
        return original(window, block, parameters)

    runtime._graphs.predict = predict
    return seen


def test_companions_are_few_once_the_block_knows_its_context(stream):
    x = stream[0][stream[2] == "fog"]
    with opened(contexts=False) as runtime:
        seen = windows(runtime)
        for frame in x[: BATCH - 1]:
            runtime.step(frame)
        assert [size for size, _ in seen] == list(range(1, BATCH))
        runtime.step(x[BATCH - 1])
        assert runtime.counters["steps"] == 1 and used(runtime._guard.opinion.share) == 0
        seen.clear()
        runtime.step(x[BATCH])
        assert seen[0][0] == 1 + KNOWN


def test_predict_takes_the_companions_that_step_would(stream):
    x, _, _ = stream
    with opened(contexts=False) as runtime:
        runtime.step(x[: 2 * BATCH])
        for n in (1, 3, BATCH - 1):
            expected = runtime.predict(x[2 * BATCH :][:n]).logits
            with_step = opened(contexts=False)
            with_step.step(x[: 2 * BATCH])
            np.testing.assert_array_equal(with_step.step(x[2 * BATCH :][:n]).logits, expected)


class Memory:
    """What glimpses find: a block, or None."""

    def __init__(self, found):
        self.found, self.noises = list(found), []

    def glimpse(self, key, noise):
        self.noises.append(noise)
        return self.found.pop(0)


class Ring:
    size = count = 64

    def last(self, n):
        return np.zeros((n, 1), np.float32)


class Graphs:
    def key(self, window):
        assert len(window) == LOOK
        return np.zeros(2, np.float32)


def test_another_block_answers_after_two_looks_and_until_one_finds_the_present_context():
    with opened() as runtime:
        bundle = runtime.bundle
    lookout, other, own = Lookout(bundle, Graphs(), Ring()), dict(bundle.generic), bundle.generic
    memory, chosen = Memory([None, other, other, other, None]), []
    for _ in range(LOOK + 16):
        lookout.look(1, memory)
        chosen.append(lookout.chosen(own, 1))
    assert memory.found == [] and memory.noises == [2.0] * 5
    borrowed = [block is other for block, _ in chosen]
    assert borrowed.index(True) == LOOK + 7 and sum(borrowed) == 8
    assert [n for block, n in chosen if block is other] == [LOOK + 4] * 4 + [LOOK + 8] * 4
    lookout.reset()
    assert lookout.chosen(own, 1)[0] is own


def test_a_single_false_look_changes_nothing():
    with opened() as runtime:
        bundle = runtime.bundle
    lookout = Lookout(bundle, Graphs(), Ring())
    memory = Memory([dict(bundle.generic), None, None])
    for _ in range(LOOK + 8):
        lookout.look(1, memory)
        assert lookout.chosen(bundle.generic, 1)[0] is bundle.generic


def test_without_contexts_nobody_looks():
    with opened() as runtime:
        lookout = Lookout(runtime.bundle, Graphs(), Ring())
    for _ in range(64):
        lookout.look(1, None)
    assert lookout.chosen(runtime.bundle.generic, 1)[1] == 64
