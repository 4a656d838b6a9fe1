"""The table of classes: labels find or open classes, and what a snapshot holds is checked."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from teachable import CAPACITY, OWN, TAUGHT, write_bundle

from edgemem.bundle.opening import open_bundle
from edgemem.errors import InputError, StateError
from edgemem.runtime.classes.class_table import ClassTable, own_classes, table_of

NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=128)
FREE = range(len(OWN), CAPACITY)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("table") / "t.edgemem")).manifest


@pytest.fixture(scope="module")
def table(manifest):
    return own_classes(manifest)


def names(table):
    return {info.index: info.name for info in table.listed()}


@given(data=st.data())
def test_a_table_comes_back_from_its_array(data, manifest, table):
    chosen = data.draw(st.lists(NAMES.filter(lambda n: n not in OWN), max_size=3, unique=True))
    numbers = data.draw(st.permutations(FREE))
    opened = replace(table, names={**table.names, **dict(zip(numbers, chosen, strict=False))})
    given_numbers = data.draw(st.lists(st.sampled_from(sorted(opened.names)), max_size=9))
    expected = opened.given(given_numbers, TAUGHT[:2])
    found = table_of(expected.to_array(), manifest, "s.db")
    assert found == expected and found.listed() == expected.listed()
    assert [i.frames for i in found.listed()] == [given_numbers.count(n) for n in names(found)]


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error(manifest, content):
    try:
        table_of(np.frombuffer(content, np.uint8), manifest, "s.db")
    except StateError as error:
        assert str(error).startswith("s.db: holds a table of classes")


OWN_ROWS = [[0, "left", 0], [1, "right", 0]]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"classes": OWN_ROWS},
        {"classes": OWN_ROWS[:1], "taught": []},
        {"classes": [*OWN_ROWS, [5, "cat", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [-1, "cat", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [True, "cat", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "cat", -1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "cat", 0.5]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "right", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "a", 1], [2, "b", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "a", 1], [3, "a", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "x" * 129, 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "a\nb", 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, 7, 1]], "taught": []},
        {"classes": [*OWN_ROWS, [2, "cat"]], "taught": []},
        {"classes": 3, "taught": []},
        {"classes": OWN_ROWS, "taught": ["shift"]},
        {"classes": OWN_ROWS, "taught": [["a"]]},
        {"classes": OWN_ROWS, "taught": "prototypes.sums"},
    ],
)
def test_a_table_that_does_not_fit_is_refused(document, manifest):
    array = np.frombuffer(json.dumps(document).encode(), np.uint8)
    with pytest.raises(StateError, match=r"s\.db: holds a table of classes that does not fit"):
        table_of(array, manifest, "s.db")


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint8), np.zeros(3, np.float32)])
def test_another_array_is_no_table(array, manifest):
    with pytest.raises(StateError):
        table_of(array, manifest, "s.db")


def test_names_and_numbers_open_classes(table):
    opened, numbers = table.opened(["cat", 1, "dog", "cat", "left"])
    assert numbers == [2, 1, 3, 2, 0]
    assert names(opened) == {0: "left", 1: "right", 2: "cat", 3: "dog"}
    assert [info.own for info in opened.listed()] == [True, True, False, False]
    opened, numbers = table.opened(["cat", 2])  # numbers are opened first
    assert numbers == [3, 2] and names(opened)[2] == "2"
    assert names(table) == {0: "left", 1: "right"}


def test_what_cannot_be_opened_is_refused(table):
    with pytest.raises(InputError, match="label 5: is not one of the 5 classes"):
        table.opened([5])
    with pytest.raises(InputError, match="label -1: is not one"):
        table.opened([-1])
    with pytest.raises(InputError, match="do not fit: 2 of 5 are taken.*forget_class.*max-classes"):
        table.opened(["a", "b", "c", "d"])
    with pytest.raises(InputError, match="class '3': is already number 2"):
        table.opened(["3"])[0].opened([3])
    for name in ("", " ", "a\n", "x" * 129):
        with pytest.raises(InputError, match="is empty, longer than 128 characters"):
            table.opened([name])


def test_a_free_number_is_used_again(table):
    opened = table.opened(["a", "b", "c"])[0].given([2, 3, 4], TAUGHT[:1])
    assert opened.forgotten(3).opened(["d"])[1] == [3]


def test_own_classes_stay_when_what_was_taught_of_them_goes(table):
    taught = table.given([0, 0], TAUGHT[:1])
    assert taught.listed()[0].frames == 2
    assert names(taught.forgotten(0)) == names(table)
    assert taught.forgotten(0).listed()[0].frames == 0
    with pytest.raises(InputError, match="is one of the model's own, and nothing was taught"):
        table.forgotten(0)


def test_renamed_classes_keep_their_numbers(table):
    assert names(table.renamed(0, "port")) == {0: "port", 1: "right"}
    assert table.renamed(0, "left") is table
    with pytest.raises(InputError, match="class 'right': is already number 1"):
        table.renamed(0, "right")
    with pytest.raises(InputError, match="class name 5: is a int"):
        table.renamed(0, 5)


def test_labels_of_a_model_may_be_the_same_twice(manifest):
    twice = replace(manifest, labels=("crane", "crane"))
    table = own_classes(twice)
    assert table_of(table.to_array(), twice, "s.db") == table
    assert table.number(1) == 1
    with pytest.raises(InputError, match="is the name of several"):
        table.number("crane")


def test_classes_without_a_name_get_one(table):
    rows = np.zeros((CAPACITY, 3), np.float32)
    assert table.covering(rows) is table
    rows[2:, 1] = 1
    covered = table.renamed(0, "class-3").covering(rows)
    assert names(covered) == {
        0: "class-3", 1: "right", 2: "class-2", 3: "class-3-2", 4: "class-4",
    }  # fmt: skip


def test_a_bundle_without_teaching_has_its_own_classes(manifest):
    alone = replace(manifest, teaching=None)
    assert own_classes(alone) == ClassTable(OWN, 2, {0: "left", 1: "right"})
