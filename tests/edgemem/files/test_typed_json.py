import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.errors import InputError
from edgemem.files import typed_json
from edgemem.files.typed_json import read_json

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def read(text, **bounds):
    content = text if isinstance(text, bytes) else text.encode()
    return read_json(content, "thing", InputError, "Mend it", **bounds)


def reason(act):
    with pytest.raises(InputError) as caught:
        act()
    assert (caught.value.thing, caught.value.remedy) == ("thing", "Mend it")
    return caught.value.reason


@given(plain)
def test_what_is_json_is_read_as_it_was_written(value):
    assert read(json.dumps(value)).plain == value
    assert read(json.dumps(value, ensure_ascii=False, indent=1)).plain == value


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_by_that_one_error(content):
    try:
        read(content)
    except InputError as error:
        assert "is not JSON" in error.reason


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("NaN", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("1e999", "too large for a number"),
        ("9" * 5000, "a number of 5,000 characters"),
        ("0." + "1" * 5000, "a number of 5,002 characters"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the same key twice"),
        (b'"\xff"', "can't decode"),
        ("[1] x", "Extra data"),
        ("\ufeff1", "BOM"),
        ("", "Expecting value"),
    ],
)
def test_what_json_readers_let_through_is_refused(content, why):
    assert why in reason(lambda: read(content))


def test_depth_is_bounded_whatever_the_limit_of_the_program(monkeypatch):
    deep = "[" * typed_json.DEEPEST + "]" * typed_json.DEEPEST
    assert read(deep).plain
    assert "within each other" in reason(lambda: read(f"[{deep}]"))
    assert "within each other" in reason(lambda: read('{"a":' * 33 + "1" + "}" * 33))
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(10**6)
        assert "within each other" in reason(lambda: read("[" * 900_000))
    finally:
        sys.setrecursionlimit(before)


def test_brackets_in_text_are_no_depth():
    value = ["[{" * 100, '"[[', "\\", "[" * 50]
    assert read(json.dumps(value)).plain == value


def test_text_that_never_ends_is_looked_at_once():
    # Looked at again from each quotation mark, this would take hours.
    assert "is not JSON" in reason(lambda: read('"' + '\\"' * 500_000))
    assert "is not JSON" in reason(lambda: read('"' + "x" * 1_000_000))


def test_size_is_bounded_before_anything_is_read():
    assert "too large" in reason(lambda: read(b"\xff" * 11, most_bytes=10))


@pytest.mark.parametrize(
    ("get", "right", "wrong"),
    [
        (lambda v: v.text(), ["", "é"], [1, None, [], "x" * 1025]),
        (lambda v: v.text(longest=2), ["ab"], ["abc"]),
        (lambda v: v.choice(("a", "b")), ["a", "b"], ["c", "", 1]),
        (lambda v: v.flag(), [True, False], [0, 1, "true", None]),
        (lambda v: v.count(), [0, 7, (1 << 48) - 1], [-1, 1 << 48, 1.0, True, "1", None]),
        (lambda v: v.count(least=1, most=3), [1, 3], [0, 4]),
        (lambda v: v.finite(), [0, -1.5, 1e300], [True, "1", None, []]),
        (lambda v: v.positive(), [1e-300, 2], [0, -1, False]),
        (lambda v: v.share(), [0, 0.5, 1], [-0.1, 1.1]),
        (lambda v: [e.plain for e in v.list(most=2)], [[], [1, 2]], [[1, 2, 3], {}, "ab"]),
        (lambda v: [e.plain for e in v.list(least=1)], [[1]], [[]]),
        (
            lambda v: {k: e.plain for k, e in v.object(most=1).items()},
            [{}, {"a": None}],
            [{"a": 1, "b": 2}, [], {"x" * 1025: 1}],
        ),
    ],
)
def test_a_value_is_of_its_type_and_within_its_bounds(get, right, wrong):
    for value in right:
        assert get(read(json.dumps(value))) == value
    for value in wrong:
        assert "has a wrong value" in reason(lambda value=value: get(read(json.dumps(value))))


def test_half_a_character_is_no_text():
    assert "half a character" in reason(lambda: read('"\\ud800"').text())
    assert "half a character" in reason(lambda: read('{"\\udc00": 1}').object())
    assert read('"\\ud83d\\ude00"').text() == "\U0001f600"


def test_the_error_names_the_field():
    document = read('{"plans": [{"name": "a"}, {"name": 5}]}')
    plans = document.field("plans").list()
    assert "field plans[1].name: 5 is not text" in reason(plans[1].field("name").text)
    assert "lacks the field 'plans[0].size'" in reason(lambda: plans[0].field("size"))
    assert "field plans: a list is not an object" in reason(
        lambda: document.field("plans").field("x")
    )
    assert "the whole: an object is not a list" in reason(document.list)


def test_the_error_stays_short_whatever_is_in_the_file():
    assert len(reason(read(json.dumps("x" * 100_000)).flag)) < 300
    assert len(reason(lambda: read(json.dumps({"x" * 100_000: 1})).object())) < 300
    assert len(reason(lambda: read("{}").field("x" * 1000))) < 300
