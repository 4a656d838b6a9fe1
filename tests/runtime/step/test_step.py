"""What the runtime does when a step goes wrong, driven by a backend that answers from a script."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.loop import Runtime
from edgemem.runtime.step.policy import Verdict, judge
from edgemem.state.store import State
from edgemem.testing import ScriptedBackend, session_of

GOOD = {"add": 1.0}
UNRELIABLE = {"updated": 0.0}
BAD_NEXT = {"add": np.nan}
BAD_LOSS = {"add": 1.0, "loss": np.nan}
BAD_LOGITS = {"add": 1.0, "logits": np.inf}


def opened(*script, limit=np.inf, state=None):
    bundle = open_bundle(BUNDLE)
    bundle = replace(bundle, manifest=replace(bundle.manifest, source=None))  # no graph of keys
    backend = ScriptedBackend(bundle.manifest, *script, limit=limit)
    return Runtime(bundle, backend, state=state, contexts=False)


def batch(runtime):
    frames = runtime.bundle.manifest.frames
    values = np.linspace(0, 1, frames.batch * int(np.prod(frames.shape)), dtype=np.float32)
    return values.reshape(frames.batch, *frames.shape)


def moved(runtime):
    """How far the block is from the source."""
    name = runtime.bundle.manifest.block.arrays[0].name
    return round(float((session_of(runtime).block[name] - runtime.bundle.generic[name]).mean()), 3)


def steps(runtime, count):
    """Kinds of events and distances from the source of consecutive steps."""
    kinds, distances = [], []
    for _ in range(count):
        result = runtime.step(batch(runtime))
        assert np.isfinite(result.logits).all()
        kinds.append(tuple(event.kind for event in result.events))
        distances.append(moved(runtime))
    return kinds, distances


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (GOOD, Verdict.KEEP),
        (UNRELIABLE, Verdict.UNRELIABLE),
        (BAD_NEXT, Verdict.SKIP),
        ({"add": np.inf}, Verdict.SKIP),
        ({"add": 2e30}, Verdict.SKIP),
        (BAD_NEXT | UNRELIABLE, Verdict.SKIP),
        (BAD_LOSS, Verdict.RESTORE),
        ({"loss": -np.inf}, Verdict.RESTORE),
        (BAD_LOGITS, Verdict.RESTORE),
        (BAD_LOSS | BAD_NEXT, Verdict.RESTORE),
    ],
)
def test_a_step_is_judged_by_what_is_not_finite(answer, verdict):
    runtime = opened()
    manifest = runtime.bundle.manifest
    graph = ScriptedBackend(manifest, answer).open(Path("adapt.onnx"))
    arrays = {**manifest.block.zero().under("block"), **manifest.slots.zero().under("opt")}
    assert judge(graph.run({"x": batch(runtime), **arrays})) is verdict


def test_a_non_finite_block_is_thrown_away_and_the_present_one_stays():
    runtime = opened(GOOD, BAD_NEXT, GOOD)
    kinds, distances = steps(runtime, 3)
    assert kinds == [("adapted",), ("skipped",), ("adapted",)]
    assert distances == [1, 1, 2]
    assert (runtime.counters["updates"], runtime.counters["skipped"]) == (2, 1)


def test_a_skipped_step_clears_the_optimiser():
    runtime = opened(GOOD, BAD_NEXT)
    steps(runtime, 1)
    assert all((slot == 1).all() for slot in session_of(runtime).slots.values())
    steps(runtime, 1)
    assert all((slot == 0).all() for slot in session_of(runtime).slots.values())


def test_an_unreliable_step_changes_neither_block_nor_optimiser():
    runtime = opened(GOOD, UNRELIABLE)
    steps(runtime, 1)
    before = session_of(runtime)
    kinds, _ = steps(runtime, 1)
    assert kinds == [("unreliable",)] and runtime.counters["unreliable"] == 1
    after = session_of(runtime)
    assert after.block is before.block and after.slots is before.slots


@pytest.mark.parametrize("bad", [BAD_LOSS, BAD_LOGITS])
def test_a_failing_block_gives_way_to_the_last_good_one_and_then_to_the_source(bad):
    runtime = opened(GOOD, GOOD, GOOD, bad, bad, bad)
    kinds, distances = steps(runtime, 6)
    assert kinds == [("adapted",)] * 3 + [("restored",)] * 3
    assert distances == [1, 2, 3, 0, 0, 0]
    assert runtime.counters["restored"] == 3 and runtime.counters["steps"] == 6


def test_the_messages_say_which_block_came_back():
    runtime = opened(GOOD, BAD_LOSS, BAD_LOSS)
    steps(runtime, 1)
    messages = [runtime.step(batch(runtime)).events[0].message for _ in range(2)]
    assert "last good block is back" in messages[0] and "source block is back" in messages[1]


def test_a_reopened_runtime_falls_back_to_the_same_blocks(tmp_path):
    script = (GOOD, GOOD, BAD_LOSS, BAD_LOSS, BAD_LOSS)
    expected = steps(opened(*script), len(script))
    for cut in range(len(script)):
        bundle = open_bundle(BUNDLE)
        path = tmp_path / f"{cut}.db"
        with opened(*script[:cut], state=State(path, bundle.identity)) as runtime:
            first = steps(runtime, cut)
        with opened(*script[cut:], state=State(path, bundle.identity)) as runtime:
            second = steps(runtime, len(script) - cut)
        assert (first[0] + second[0], first[1] + second[1]) == expected, f"cut at {cut}"


def test_the_frozen_model_answers_where_the_block_fails_and_says_so():
    runtime = opened(GOOD, limit=0.5)
    runtime.step(batch(runtime))
    for frames in (batch(runtime), batch(runtime)[:1]):
        result = runtime.predict(frames)
        frozen = runtime.predict(frames, frozen=True)
        assert [event.kind for event in result.events] == ["frozen"]
        np.testing.assert_array_equal(result.logits, frozen.logits)
        assert np.isfinite(frozen.logits).all() and frozen.events == ()


@pytest.mark.parametrize("value", [3e38, -3e38])
@pytest.mark.parametrize("name", ["alpha", "learning_rate", "momentum", "regularization_weight"])
def test_a_hyper_parameter_out_of_all_reason_never_spoils_block_or_prediction(
    digits_stream, name, value
):
    x, _ = digits_stream
    with edgemem.open(BUNDLE, threads=1) as runtime:
        runtime.step(x[:64])
        usual = runtime.hyper_parameters[name]
        runtime.hyper_parameters.set({name: value})
        result = runtime.step(x[64:128])
        assert np.isfinite(result.logits).all() and result.events
        assert session_of(runtime).block.is_finite()
        assert session_of(runtime).slots.is_finite()
        runtime.hyper_parameters.set({name: usual})
        assert runtime.step(x[128:192]).adapted
