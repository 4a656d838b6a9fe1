"""Outputs without classes: how far they are from the frozen model's, and what follows."""

from dataclasses import replace

import numpy as np
import pytest

from edgemem.bundle.manifest import OutputSpec, TaskSpec
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.answers import answers_of, outputs_of, rows_of
from edgemem.runtime.guard.escalation import Rung
from edgemem.runtime.guard.output_distance import LEAST, SMALLEST, deviations, distance, strayed
from edgemem.runtime.loop import Runtime
from edgemem.testing import ScriptedBackend, session_of

SPECS = (OutputSpec("boxes", (3, 2)), OutputSpec("steps", (4, 5), 1), OutputSpec("size", ()))
TASK = TaskSpec("detection", SPECS, 2, (0.0, 0.0), (1.0, 0.5), 5.0)
BATCH = 16


def manifest(task=TASK):
    found = open_bundle(BUNDLE).manifest
    return replace(found, task=task, labels=(), familiar=False, source=None)


def test_the_distance_is_in_deviations():
    frozen = np.zeros((2, 2), np.float32)
    assert distance(frozen, frozen, TASK) == 0
    own = np.array([[1, 0.5], [3, 1.5]], np.float32)  # one deviation, and three, in both numbers
    assert distance(own, frozen, TASK) == pytest.approx(np.sqrt((1 + 9) / 2))
    assert distance(own + 7, frozen + 7, TASK) == pytest.approx(np.sqrt(5))


def test_without_deviations_or_a_sound_frozen_model_nothing_speaks_against_a_block():
    near, far = np.zeros((2, 2), np.float32), np.full((2, 2), 90, np.float32)
    assert strayed(far, near, TASK) == distance(far, near, TASK)
    assert strayed(far, near, replace(TASK, mean=(), deviation=())) is None
    assert strayed(far, near * np.nan, TASK) is None


def test_the_block_strays_only_where_the_frozen_model_is_more_like_the_source():
    task = replace(TASK, mean=(10.0, -5.0))
    source = np.array([[10, -5], [11, -4.5]], np.float32)
    assert strayed(source + 20, source, task) == distance(source + 20, source, task) > task.limit
    assert strayed(source, source + 20, task) is None  # the shift led the frozen model astray
    assert strayed(source + 1, source, task) is None  # within the limit


def test_numbers_that_never_vary_have_a_small_deviation():
    found = deviations(np.array([[0, 1, 5], [2, 1, 7]], np.float32))
    assert found == pytest.approx((1.0, SMALLEST * 2 / 3, 1.0))
    assert deviations(np.zeros((3, 2), np.float32)) == (LEAST, LEAST)


def test_rows_hold_all_that_graphs_return_and_come_apart_again():
    rng, n = np.random.default_rng(0), 7
    made = {
        "summary": rng.random((n, 2), np.float32),
        "out.boxes": rng.random((n, 3, 2), np.float32),
        "out.steps": rng.random((4, n, 5), np.float32),
        "out.size": rng.random(n, np.float32),
    }
    rows = rows_of(made, manifest(), n, "graph")
    assert rows.shape == (n, TASK.numbers) == (n, 2 + 6 + 20 + 1)
    found = outputs_of(rows[2:5], manifest())
    np.testing.assert_array_equal(found["boxes"], made["out.boxes"][2:5])
    np.testing.assert_array_equal(found["steps"], made["out.steps"][:, 2:5])
    np.testing.assert_array_equal(found["size"], made["out.size"][2:5])
    assert list(found) == ["boxes", "steps", "size"]
    np.testing.assert_array_equal(answers_of(rows, manifest())["summary"], made["summary"])


def runtime(*script, task=TASK, **options):
    bundle = replace(open_bundle(BUNDLE), manifest=manifest(task))
    return Runtime(bundle, ScriptedBackend(bundle.manifest, *script, **options), contexts=False)


def run(opened, batches):
    results = []
    for batch in range(batches):
        frames = np.random.default_rng(batch).random((BATCH, 1, 8, 8), np.float32)
        results.append(opened.step(frames))
    return results, [event.kind for result in results for event in result.events]


def exported_distance():
    """Of the block as exported: the scripted answer is the mean of its first array."""
    bundle = open_bundle(BUNDLE)
    first = bundle.manifest.block.arrays[0].name
    return abs(float(bundle.generic[first].mean())) * np.sqrt((1 + 4) / 2)


def test_a_block_whose_outputs_stray_is_given_up_for_one_whose_do_not():
    limit = exported_distance() + 0.02
    with runtime(*[{"add": 4e-3}] * 40, task=replace(TASK, limit=limit)) as opened:
        results, kinds = run(opened, 40)
    assert kinds.index("skipped") < kinds.index("restored") < kinds.index("recovered")
    assert "frozen" not in kinds
    # Until the next check a block may go on, and steps are 4e-3 in its answers.
    assert max(float(r.outputs["size"].max()) for r in results) < 0.1


def test_where_the_exported_block_strays_too_the_frozen_model_answers():
    limit = exported_distance() / 2
    with runtime(*[{"add": 1e-3}] * 40, task=replace(TASK, limit=limit)) as opened:
        results, kinds = run(opened, 40)
        assert session_of(opened).watch.escalation.rung is Rung.FROZEN
    assert kinds.index("skipped") < kinds.index("reset") < kinds.index("frozen")
    assert not results[-1].outputs["boxes"].any()  # the zero block's


def test_within_the_limit_nothing_happens():
    with runtime(*[{"add": 1e-3}] * 20) as opened:
        _, kinds = run(opened, 20)
        assert set(kinds) == {"adapted"}
        assert session_of(opened).watch.escalation.rung is Rung.LEARN


def test_without_source_frames_only_values_that_are_no_numbers_alarm():
    task = replace(TASK, mean=(), deviation=(), limit=0.0)
    with runtime(*[{"add": 4e-3}] * 20, task=task) as opened:
        _, kinds = run(opened, 20)
        assert set(kinds) == {"adapted"}
    with runtime(*[{"add": 0.5}] * 20, task=task, limit=0.4) as opened:
        results, kinds = run(opened, 3)
        assert "restored" in kinds
        assert all(np.isfinite(value).all() for r in results for value in r.outputs.values())


def test_a_step_that_changes_nothing_counts_as_none():
    with runtime({}, {"add": 1e-3}, {}) as opened:
        results, _ = run(opened, 3)
        assert [result.adapted for result in results] == [False, True, False]
        assert (opened.counters["steps"], opened.counters["updates"]) == (3, 1)


def test_checks_go_on_where_steps_change_nothing():
    """Statistics of a batch can lead outputs astray that no step has touched."""
    with runtime(*[{}] * 20, task=replace(TASK, limit=0.0)) as opened:
        run(opened, 20)
        assert session_of(opened).watch.checked > 0
        assert opened.counters["updates"] == 0
