"""The harness of learning new classes: its runs on tiny data, tables, page and command."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_tasks import CPU, DATA, ONES, SEED, TINY, tasks_of

from benchmarks.class_incremental import __main__ as command
from benchmarks.class_incremental.kept import keep, kept, run_path
from benchmarks.class_incremental.methods import JOINT, METHODS, OURS
from benchmarks.class_incremental.running import accuracy, run
from benchmarks.class_incremental.show import course, goals, sweep_table, table
from benchmarks.class_incremental.split import load, merged, split
from benchmarks.class_incremental.views import crop_and_flip
from edgemem.accuracy import figures, from_rows, read_accuracy

pytestmark = pytest.mark.slow


def test_tasks_are_disjoint_whole_and_of_the_first_images():
    tasks = tasks_of()
    assert sorted(merged(tasks).classes) == [0, 1, 2, 3] and len(tasks) == 2
    for task in tasks:
        assert np.bincount(task.labels, minlength=4)[list(task.classes)].tolist() == [12, 12]
        assert len(task.test_labels) == 12 and set(task.test_labels) == set(task.classes)
        own = np.flatnonzero(DATA[0][1] == task.classes[0])[:12]
        np.testing.assert_array_equal(task.frames[task.labels == task.classes[0]], DATA[0][0][own])
    again, other = tasks_of(), [split(DATA, TINY, seed)[0].classes for seed in range(8)]
    assert [task.classes for task in again] == [task.classes for task in tasks]
    assert len(set(other)) > 1


def test_a_view_is_a_shifted_crop_that_may_be_flipped():
    x = torch.rand(20, 3, 16, 16)
    found = crop_and_flip(x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (4,) * 4)
    flips = 0
    for image, view in zip(padded, found, strict=True):
        crops = [
            (flip, (image.flip(2) if flip else image)[:, down : down + 16, right : right + 16])
            for flip in (False, True) for down in range(9) for right in range(9)
        ]  # fmt: skip
        fits = [flip for flip, crop in crops if torch.equal(crop, view)]
        assert len(fits) == 1
        flips += fits[0]
    assert 0 < flips < 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", [TINY, ONES], ids=["two", "one"])
def test_every_method_gives_two_matrices_that_fit_together(method, setting):
    tasks = tasks_of(setting)
    found = run(method, METHODS[method].chosen, setting, tasks, SEED, CPU)
    count = 1 if method == JOINT else setting.tasks
    assert found.by_task.values.shape == found.by_class.values.shape == (count, count)
    lower = np.tril_indices(count)
    assert (found.by_task.values[lower] >= found.by_class.values[lower]).all()
    if setting is ONES:
        assert (found.by_task.values[lower] == 1).all()
    else:
        head = method.split()[0] in ("fine-tuning", "LwF", "EWC", "ER", "DER")
        assert (figures(found.by_task)["forward_transfer"] is not None) == head
    assert found.seconds > 0


def test_a_run_is_the_same_twice():
    for method in (OURS, "DER 200"):
        runs = [run(method, METHODS[method].chosen, TINY, tasks_of(), SEED, CPU) for _ in range(2)]
        assert np.array_equal(runs[0].by_task.values, runs[1].by_task.values, equal_nan=True)


def test_an_accuracy_is_of_the_best_among_some_classes():
    scores = np.array([[1, 5, 3], [4, 9, 2], [0, 1, np.nan]], np.float32)
    assert accuracy(scores[:2], np.array([2, 0]), (0, 2)) == 1
    assert accuracy(scores[:2], np.array([2, 0]), (2, 1, 0)) == 0
    assert accuracy(scores[:2], np.array([2, 2]), (0, 2)) == 0.5
    assert np.isnan(accuracy(scores, np.array([0, 0, 0]), (0, 2)))


def test_a_kept_run_comes_back_and_other_numbers_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks, numbers = tasks_of(), METHODS[OURS].chosen
    path = run_path(OURS, numbers, TINY, tasks, SEED, "cpu")
    assert kept(path) is None
    found = run(OURS, numbers, TINY, tasks, SEED, CPU)
    keep(path, found)
    again = kept(path)
    assert np.array_equal(again.by_class.values, found.by_class.values, equal_nan=True)
    assert again.seconds == found.seconds
    others = [
        run_path(OURS, {**numbers, "relation_weight": 3.0}, TINY, tasks, SEED, "cpu"),
        run_path(OURS, numbers, replace(TINY, epochs=3), tasks, SEED, "cpu"),
        run_path(OURS, numbers, TINY, tasks_of(seed=4), SEED, "cpu"),
        run_path(OURS, numbers, TINY, tasks, 4, "cpu"),
        run_path("LwF", numbers, TINY, tasks, SEED, "cpu"),
    ]
    assert len({path, *others}) == 6


def test_tables_and_goals_are_computed_from_matrices():
    ours, peer = (
        replace(
            run("fine-tuning", {}, TINY, tasks_of(), SEED, CPU),
            by_task=from_rows(rows), by_class=from_rows([[0.5], [0.1, 0.6]]), seconds=2.0,
        )
        for rows in ([[0.9], [0.8, 0.7]], [[0.9], [0.5, 0.9]])
    )  # fmt: skip
    columns, rows = table({OURS: [ours, peer]}, "by_task")
    cells = dict(zip(columns, rows[0], strict=True))
    assert cells["ACC"] == "72.5±2.5" and cells["F learnt"] == "25.0±15.0" and cells["FWT"] == "–"
    _, rows = goals([(TINY, {OURS: [ours], "LwF": [peer], "ER 200": [peer], "ER 500": [peer]})])
    assert rows == [
        ["2 x 2, task-incremental", "LwF", "+5.0", "+5.0", "met"],
        ["2 x 2, task-incremental", "ER 200", "+5.0", "+5.0", "met"],
        ["2 x 2, class-incremental", "LwF", "+0.0", "+0.0", "missed"],
    ]
    assert course(ours.by_task) == pytest.approx([0.9, 0.75])
    tried = [command.Tried("LwF", numbers, ours) for numbers in METHODS["LwF"].variants()]
    assert [row[-1] for row in sweep_table(tried)[1]] == ["chosen", "", ""]


@pytest.fixture
def invoked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEMEM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        monkeypatch.setattr(sys, "argv", ["class_incremental", *words])
        command.main()
        return tmp_path

    return invoke


def test_one_command_writes_page_pictures_matrices_and_figures(invoked, monkeypatch, capsys):
    monkeypatch.setattr(command, "load", lambda folder, name: DATA)
    monkeypatch.setattr(command, "FIVE", TINY)
    monkeypatch.setattr(command, "TEN", ONES)
    folder = invoked("--methods", "PRD", "LwF", "joint", "--seeds", "2", "--out", "out")
    page = (folder / "out" / "class-incremental-results.md").read_text()
    assert "## 4 x 1 classes, class-incremental" in page and "## Numbers tried" in page
    assert "4 x 1 classes, task-incremental" not in page
    assert "Goals" in capsys.readouterr().out
    assert len(list((folder / "out" / "results").glob("*.png"))) == 3
    matrices = list((folder / "results" / "class-incremental").glob("*-seed-1.by-class.json"))
    assert len(matrices) == 6 and all(read_accuracy(path).tasks in (1, 2, 4) for path in matrices)
    found = json.loads((folder / "results" / "class-incremental.json").read_text())
    assert len(found["results"]) == 2 and len(found["sweep"]) == 8
    invoked("--methods", "PRD", "--seeds", "1", "--settings", "4 x 1")
    found = json.loads((folder / "results" / "class-incremental.json").read_text())
    assert [one["name"] for one in found["results"]] == ["4 x 1"]
    with pytest.raises(SystemExit):
        invoked("--settings", "3 x 3")
    assert "unknown setting '3 x 3'" in capsys.readouterr().err


def test_it_is_skipped_aloud_without_data_and_the_long_setting_without_a_gpu(
    invoked, monkeypatch, capsys
):
    invoked("--quick")
    assert "skipped: no cifar10 in the benchmark data" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    invoked("--long")
    assert "skipped: --long needs a GPU" in capsys.readouterr().out


def test_other_data_sets_are_read_from_two_files(tmp_path):
    (tmp_path / "made").mkdir()
    assert load(tmp_path, "made") is None
    for part, (x, y) in zip(("train", "test"), DATA, strict=True):
        np.savez(tmp_path / "made" / f"{part}.npz", x=x, y=y)
    for found, expected in zip(load(tmp_path, "made"), DATA, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
