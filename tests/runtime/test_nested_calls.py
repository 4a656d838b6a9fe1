"""Calls from within a call, as a signal's handler makes them: what they changed holds."""

import gc
from weakref import ref

import numpy as np
import pytest
from teachable import BATCH, frames_of, stream_of, write_bundle

from edgemem.runtime.contexts.shipped_rows import Request
from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
from edgemem.runtime.step.hyper_parameters import HyperParameters
from edgemem.testing import WatchedBackend, batch_of, open_with, session_of

CAT = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("nested") / "t.edgemem")


def teach(runtime):
    runtime.learn(frames_of(CAT, 3), ["cat"] * 3)


CHANGES = {
    "learn": (None, teach, True),
    "forget": (teach, lambda runtime: runtime.forget_class("cat"), False),
    "rename": (teach, lambda runtime: runtime.rename_class("cat", "tom"), False),
    "rollback": (teach, lambda runtime: runtime.rollback("source"), False),
}


@pytest.mark.parametrize("graph", ["key", "predict", "adapt"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_in_the_midst_of_a_step_is_there_after_it(name, graph, bundle, tmp_path):
    before, change, has_cat = CHANGES[name]
    waiting = []

    def called(call):
        if waiting and call.graph == graph:
            change(waiting.pop())
        return call.outputs

    backend, state = WatchedBackend(OnnxRuntimeBackend(1), called), tmp_path / "s.db"
    with open_with(bundle, backend, state) as runtime:
        for seed in range(3):
            runtime.step(stream_of([0, 1], BATCH, seed)[0])
        if before is not None:
            before(runtime)
        waiting.append(runtime)
        for seed in range(
            9, 13
        ):  # a check of the block, which runs `predict`, is due in one of them
            runtime.step(stream_of([0, 1], BATCH, seed)[0])
        assert not waiting, "the graph has run"
        names = [c.name for c in runtime.classes()]
        assert ("cat" in names) == has_cat
    with open_with(bundle, OnnxRuntimeBackend(1), state) as runtime:
        assert [c.name for c in runtime.classes()] == names
        taught = session_of(runtime).block["prototypes.sums"][CAT]
        assert taught.any() == (name in ("learn", "rename"))


def test_batches_go_without_the_garbage_collector(bundle):
    gc.disable()
    try:
        with open_with(bundle, OnnxRuntimeBackend(1)) as runtime:
            batch = batch_of(runtime, stream_of([0, 1], BATCH)[0])
            batch.every(2).frozen()
            batch.frozen()
            gone = ref(batch)
            del batch
            assert gone() is None
    finally:
        gc.enable()


def test_a_read_that_was_given_up_is_a_fault_and_no_error():
    request = Request()
    request.cancel()
    assert request.answer(0).faults and not request.answer(0).path


def test_values_that_were_taken_do_not_change_with_those_that_are_set(bundle):
    with open_with(bundle, OnnxRuntimeBackend(1)) as runtime:
        parameters: HyperParameters = runtime.hyper_parameters
        before = parameters.now()
        name = next(iter(before))
        parameters.set({name: before[name] + 1})
        assert parameters[name] == before[name] + 1 != before[name]
        assert np.isfinite(list(parameters.now().values())).all()
