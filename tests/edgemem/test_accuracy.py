"""Figures of continual learning: by hand, against loops, and what a file may not hold."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.accuracy import (
    FORMAT,
    AccuracyMatrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    figures,
    forgetting_from_best,
    forgetting_from_earlier_best,
    forgetting_since_learnt,
    forward_transfer,
    from_rows,
    read_accuracy,
    write_accuracy,
)
from edgemem.errors import InputError

# Task 0 is best after task 1 and then forgotten; task 1 is best in the end.
WORKED = AccuracyMatrix(
    np.array([[0.8, 0.3, 0.1], [0.9, 0.6, 0.2], [0.5, 0.7, 0.9]]), np.array([0.2, 0.1, 0.1])
)
fractions = st.floats(0, 1)


@st.composite
def matrices(draw, least=1, holes=True):
    tasks = draw(st.integers(least, 6))
    values = np.array(draw(st.lists(fractions, min_size=tasks**2, max_size=tasks**2)))
    values = values.reshape(tasks, tasks)
    if holes:
        gone = draw(st.lists(st.booleans(), min_size=tasks**2, max_size=tasks**2))
        values[np.triu(np.reshape(gone, values.shape), 1)] = np.nan
    untrained = draw(st.none() | st.lists(fractions, min_size=tasks, max_size=tasks))
    return AccuracyMatrix(values, None if untrained is None else np.array(untrained))


def test_figures_by_hand():
    assert average_accuracy(WORKED) == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert average_incremental_accuracy(WORKED) == pytest.approx((0.8 + 0.75 + 0.7) / 3)
    assert forgetting_from_earlier_best(WORKED) == pytest.approx((0.4 - 0.1) / 2)
    assert forgetting_from_best(WORKED) == pytest.approx((0.4 + 0.0) / 2)
    assert forgetting_since_learnt(WORKED) == pytest.approx((0.3 - 0.1) / 2)
    assert backward_transfer(WORKED) == pytest.approx((-0.3 + 0.1) / 2)
    assert forward_transfer(WORKED) == pytest.approx(((0.3 - 0.1) + (0.2 - 0.1)) / 2)


def test_a_row_before_a_task_was_learnt_can_be_its_best():
    matrix = AccuracyMatrix(np.array([[0.9, 0.8, 0.0], [0.9, 0.5, 0.0], [0.9, 0.4, 0.7]]))
    assert forgetting_from_earlier_best(matrix) == pytest.approx(0.2)
    assert forgetting_since_learnt(matrix) == pytest.approx(0.05)
    holes = from_rows([[0.9], [0.9, 0.5], [0.9, 0.4, 0.7]])
    assert forgetting_from_earlier_best(holes) == pytest.approx(0.05)


@given(matrices())
def test_figures_are_their_formulas(matrix):
    a, b, count = matrix.values.tolist(), matrix.untrained, matrix.tasks
    last = count - 1
    expected = dict.fromkeys(figures(matrix))
    expected["average_accuracy"] = sum(a[last][j] for j in range(count)) / count
    expected["average_incremental_accuracy"] = (
        sum(sum(a[i][j] for j in range(i + 1)) / (i + 1) for i in range(count)) / count
    )
    if count > 1:
        earlier = best = learnt = 0.0
        for j in range(last):
            measured = [a[row][j] for row in range(count) if not np.isnan(a[row][j])]
            earlier += max(measured[:-1]) - a[last][j]
            best += max(measured) - a[last][j]
            learnt += a[j][j] - a[last][j]
        expected["forgetting_from_earlier_best"] = earlier / last
        expected["forgetting_from_best"] = best / last
        expected["forgetting_since_learnt"] = learnt / last
        expected["backward_transfer"] = -learnt / last
        before = [a[j - 1][j] for j in range(1, count)]
        if b is not None and not np.isnan(before).any():
            expected["forward_transfer"] = sum(v - b[j + 1] for j, v in enumerate(before)) / last
    found = figures(matrix)
    assert found.keys() == expected.keys() and len(found) == 7
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@given(matrices(least=2))
def test_how_the_three_kinds_of_forgetting_are_ordered(matrix):
    earlier, best = forgetting_from_earlier_best(matrix), forgetting_from_best(matrix)
    assert best >= 0
    assert best >= earlier - 1e-12 >= forgetting_since_learnt(matrix) - 1e-11
    assert forgetting_since_learnt(matrix) == -backward_transfer(matrix)


def test_with_one_task_nothing_can_be_forgotten_or_transferred():
    found = figures(AccuracyMatrix(np.array([[0.7]]), np.array([0.1])))
    assert found.pop("average_accuracy") == found.pop("average_incremental_accuracy") == 0.7
    assert set(found.values()) == {None}


def test_forward_transfer_needs_a_test_before_learning_and_an_untrained_model():
    rows = [[0.8, 0.3], [0.9, 0.6]]
    assert forward_transfer(from_rows(rows)) is None
    assert forward_transfer(from_rows([[0.8], [0.9, 0.6]], [0.1, 0.1])) is None
    assert forward_transfer(from_rows(rows, [0.1, 0.1])) == pytest.approx(0.2)


def test_a_matrix_cannot_be_changed_from_outside():
    values = np.array([[0.5]])
    matrix = AccuracyMatrix(values)
    values[0, 0] = 0.9
    assert matrix.values[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[0, 0] = 1


BAD = {
    r"has shape \[2\]": ([0.1, 0.2], None),
    r"has shape \[1, 2\]": ([[0.1, 0.2]], None),
    r"has shape \[0, 0\]": (np.empty((0, 0)), None),
    "run from 0.5 to 1.5": ([[0.5, 1.0], [1.5, 1.0]], None),
    "run from -0.1 to -0.1": ([[-0.1]], None),
    "run from inf to inf": ([[np.inf]], None),
    "lacks the accuracy on a task after": ([[0.1, 0.2], [np.nan, 0.3]], None),
    "are not 1 numbers": ([[0.5]], [0.1, 0.2]),
    "untrained accuracies: are not 1": ([[0.5]], [np.nan]),
    "untrained accuracies: run from 7 to 7": ([[0.5]], [7.0]),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_matrix_of_accuracies_is_refused(message):
    values, untrained = BAD[message]
    with pytest.raises(InputError, match=message):
        AccuracyMatrix(np.array(values), None if untrained is None else np.array(untrained))


@pytest.mark.parametrize("rows", [[[]], [[0.1], [0.2]], [[0.1, 0.2, 0.3], [0.1, 0.2]]])
def test_rows_of_another_length_are_refused(rows):
    with pytest.raises(InputError, match=r"accuracies after task \d: are \d numbers\. Give"):
        from_rows(rows)


@given(matrices())
def test_a_file_brings_back_every_bit(tmp_path_factory, matrix):
    path = tmp_path_factory.mktemp("accuracy") / "a.json"
    write_accuracy(matrix, path)
    again = read_accuracy(path)
    assert np.array_equal(again.values, matrix.values, equal_nan=True)
    assert (again.untrained is None) == (matrix.untrained is None)
    if matrix.untrained is not None:
        assert (again.untrained == matrix.untrained).all()
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_the_file_is_this_one(tmp_path):
    write_accuracy(from_rows([[1], [0.25, 0.5]], [0.5, 0]), tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (
        b'{"format": "edgemem-accuracy-1", "accuracy": [[1.0, null], [0.25, 0.5]], '
        b'"untrained": [0.5, 0.0]}\n'
    )


def document(**fields):
    return json.dumps({"format": FORMAT, "accuracy": [[0.5]], "untrained": None} | fields)


LIES = {
    "is not readable JSON": '{"format": ',
    r"is not readable JSON \(NaN is no number": document(accuracy=[[float("nan")]]),
    r"is not readable JSON \(.*recursion|is not readable JSON \(Stack": "[" * 100_000,
    "is not readable JSON .*utf": b"\xff\xfe\x00",
    "is not of format edgemem-accuracy-1": "[]",
    "is not of format edgemem-accuracy-1. Measure": document(format="edgemem-accuracy-2"),
    r"has unknown fields \['more'\]": document(more=1),
    "holds no rows": document(accuracy=[]),
    "holds no rows of accuracies": document(accuracy="0.5"),
    "has a row that is not 1 numbers": document(accuracy=[0.5]),
    "a row that is not 2 numbers": document(accuracy=[[0.5], [0.5, 0.5]]),
    "holds 'True', no accuracy": document(accuracy=[[True]]),
    "holds '0.5', no accuracy": document(accuracy=[["0.5"]]),
    r"holds '1000\d*', no accuracy": document(accuracy=[[10**400]]),
    "holds '1.5', no accuracy": document(untrained=[1.5]),
    "accuracy matrix: lacks": document(accuracy=[[None]]),
    "untrained accuracies: are not 1 numbers": document(untrained=[None]),
}


@pytest.mark.parametrize("message", LIES)
def test_a_file_that_lies_is_refused_and_named(message, tmp_path):
    path, content = tmp_path / "lie.json", LIES[message]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"lie\.json.*({message})"):
        read_accuracy(path)


def test_a_missing_file_a_folder_and_a_giant_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none\.json: does not exist"):
        read_accuracy(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        read_accuracy(tmp_path)
    monkeypatch.setattr("edgemem.accuracy.LARGEST_FILE", 20)
    (tmp_path / "giant.json").write_text(document())
    with pytest.raises(InputError, match="is larger than 20 bytes"):
        read_accuracy(tmp_path / "giant.json")


def test_a_folder_that_is_missing_is_named_on_writing(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_accuracy(WORKED, tmp_path / "none" / "a.json")
