"""Matrices of other libraries: what is read, against what was written; and what is refused."""

import numpy as np
import pytest

from edgemem.accuracy import average_accuracy, from_rows
from edgemem.accuracy_readers import from_avalanche, from_mammoth, read_mammoth, read_table
from edgemem.errors import InputError

ROWS = [[0.9], [0.5, 0.8], [0.25, 0.5, 0.75]]


def same(found, expected):
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-15)
    assert found.untrained is None


def evaluation(row, stream="test_stream", task="Task000/"):
    return {f"Top1_Acc_Exp/eval_phase/{stream}/{task}Exp{k:03d}": v for k, v in enumerate(row)} | {
        f"Top1_Acc_Stream/eval_phase/{stream}/Task000": 0.1,
        f"Loss_Exp/eval_phase/{stream}/Task000/Exp000": 1.7,
        "Top1_Acc_Epoch/train_phase/train_stream/Task000": 0.99,
    }


@pytest.mark.parametrize("task", ["Task000/", ""])
def test_avalanche_gives_a_dictionary_after_each_experience(task):
    full = [[0.9, 0.1, 0.0], [0.5, 0.8, 0.1], [0.25, 0.5, 0.75]]
    same(from_avalanche([evaluation(row, task=task) for row in full]), from_rows(full))
    same(from_avalanche([evaluation(row, task=task) for row in ROWS]), from_rows(ROWS))


def test_avalanche_may_know_each_task_by_its_label_and_have_other_streams():
    rows = [
        {
            f"Top1_Acc_Exp/eval_phase/valid_stream/Task{k:03d}/Exp{k:03d}": v
            for k, v in enumerate(row)
        }
        | evaluation([0.0] * 3)
        for row in ROWS
    ]
    same(from_avalanche(rows, "valid_stream"), from_rows(ROWS))
    assert average_accuracy(from_avalanche(rows)) == 0


def test_avalanche_without_accuracies_of_experiences_is_refused():
    found = {"Top1_Acc_Stream/eval_phase/test_stream/Task000": 0.5}
    with pytest.raises(
        InputError, match=r"experience 1: holds no accuracy of test_stream.*Use acc"
    ):
        from_avalanche([evaluation([0.5]), found])
    with pytest.raises(InputError, match="holds 'high', no number"):
        from_avalanche([evaluation(["high"])])
    with pytest.raises(InputError, match="are of no task"):
        from_avalanche([])


def test_mammoth_counts_in_per_cent_and_pads_its_lists_with_zeros():
    ragged = [[100 * v for v in row] for row in ROWS]
    padded = [row + [0.0] * (3 - len(row)) for row in ragged]
    same(from_mammoth(ragged), from_rows(ROWS))
    same(from_mammoth(padded), from_rows(ROWS))
    assert np.isnan(from_mammoth(padded).values[0, 1])


def test_mammoth_rows_that_are_short_or_no_percentages_are_refused():
    with pytest.raises(InputError, match="after task 1: are 1 numbers"):
        from_mammoth([[90.0], [50.0]])
    with pytest.raises(InputError, match="run from 1.2 to 1.2"):
        from_mammoth([[120.0]])
    with pytest.raises(InputError, match="row 0: holds None, no number"):
        from_mammoth([[None]])


def log(rows):
    found = {
        f"accuracy_{j + 1}_task{i + 1}": 100 * v
        for i, row in enumerate(rows)
        for j, v in enumerate(row)
    }
    return str({"lr": 0.1, "model": "der", "accmean_task1": 90.0, "forgetting": None} | found)


def test_a_log_of_mammoth_holds_a_run_a_line(tmp_path):
    path = tmp_path / "logs.pyd"
    path.write_text(log([[0.5]]) + "\n\n" + log(ROWS) + "\n")
    same(read_mammoth(path), from_rows(ROWS))
    same(read_mammoth(path, run=0), from_rows([[0.5]]))
    with pytest.raises(InputError, match=r"logs\.pyd: has 2 runs, not run 2"):
        read_mammoth(path, run=2)


LOGS = {
    "has 0 runs": "",
    "run -1 is no dictionary of literals": "__import__('os').getcwd()",
    "run -1 is no dictionary": "{'lr': <object>}",
    "run -1 lacks accuracies": "{'lr': 0.1}",
    "run -1 lacks": "{'accuracy_1_task1': 90.0, 'accuracy_2_task2': 80.0}",
    "run -1 lacks accuracies. Check": "[1, 2]",
}


@pytest.mark.parametrize("message", LOGS)
def test_a_log_that_lies_is_refused_and_nothing_in_it_is_run(message, tmp_path):
    (tmp_path / "logs.pyd").write_text(LOGS[message])
    with pytest.raises(InputError, match=rf"logs\.pyd.*{message}"):
        read_mammoth(tmp_path / "logs.pyd")


@pytest.mark.parametrize(
    "text",
    [
        "0.9\n0.5,0.8\n0.25,0.5,0.75\n",
        "0.9,,\n0.5, 0.8,nan\n\n0.25,0.5,0.75",
        "0.9,-,None\n0.5,0.8,\n.25,.5,.75",
    ],
)
def test_a_table_may_have_holes_above_its_diagonal(text, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    same(read_table(path), from_rows(ROWS))


def test_a_table_may_be_in_per_cent_and_come_from_numpy(tmp_path):
    path = tmp_path / "a.csv"
    np.savetxt(path, 100 * from_rows(ROWS).values, delimiter=",")
    same(read_table(path, percent=True), from_rows(ROWS))
    with pytest.raises(InputError, match="run from"):
        read_table(path)


TABLES = {
    "line 2: holds 'task 2', no number": "0.5\ntask 2,0.5\n",
    "after task 1: are 1 numbers": "0.5\n0.5\n",
    "lacks the accuracy": "0.5\n,0.5\n",
    "are of no task": "\n",
}


@pytest.mark.parametrize("message", TABLES)
def test_a_table_that_is_none_is_refused(message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(TABLES[message])
    with pytest.raises(InputError, match=message):
        read_table(path)


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none\.csv: does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_mammoth(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        read_table(tmp_path / "a.csv")
    monkeypatch.setattr("edgemem.accuracy_readers.LARGEST_FILE", 3)
    (tmp_path / "a.csv").write_text("0.123456\n")
    with pytest.raises(InputError, match="is larger than 3 bytes"):
        read_table(tmp_path / "a.csv")
