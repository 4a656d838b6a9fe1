"""Text made harmless: what terminals act on is spelled out, what people write stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgemem
from edgemem.printable import printable, shown

# Control characters, and the marks of Unicode that change the order of what follows.
ACTED_ON = [chr(code) for code in (*range(32), *range(127, 160))] + list(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
)


@pytest.mark.parametrize("character", ACTED_ON)
def test_what_a_terminal_acts_on_is_spelled_out(character):
    found = printable(f"a{character}b")
    assert found.isascii() and found.isprintable()
    assert found[1:-1].encode().decode("unicode_escape") == character


@pytest.mark.parametrize(
    "text", ["", "fog", "Käfer – 10 €", "犬　猫", "می‌خواهم", "क्‍ष", "a\u00a0b", "🦊", "C:\\x1b"]
)
def test_what_people_write_stays(text):
    assert printable(text) == text


@given(st.text())
def test_nothing_harmful_is_left_and_twice_is_once(text):
    found = printable(text)
    assert printable(found) == found
    for character in found:
        kind = unicodedata.category(character)
        assert kind not in {"Cc", "Cs", "Zl", "Zp", "Cn", "Co"}
        assert kind != "Cf" or character in "\u200c\u200d"
    found.encode()  # no half of a character


@given(st.one_of(st.text(), st.integers(), st.binary(), st.floats()))
def test_a_shown_value_is_short_and_harmless(value):
    found = shown(value)
    assert len(found) <= 61 and printable(found) == found


def test_values_that_python_does_not_write_are_named_by_type():
    class Sulky:
        def __repr__(self):
            raise RuntimeError("no")

    assert shown(10**5000) == "a int" and shown(Sulky()) == "a Sulky"


@pytest.mark.parametrize("place", range(3))
def test_every_part_of_an_error_is_harmless(place):
    words = ["thing", "reason", "remedy"]
    words[place] = "a\x1b[2Jb\ncamera.db: everything is as it was written.\u202e"
    error = edgemem.InputError(*words)
    for text in (str(error), error.thing, error.reason, error.remedy):
        assert text.isprintable()
    assert r"a\x1b[2Jb\ncamera" in str(error)
