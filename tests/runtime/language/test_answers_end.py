"""How answers end: by the model, a text, their length or the context."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_memories import TEXTS

import edgemem
from edgemem.runtime.language.tokens import StopText

PROMPT = TEXTS[0]


def answer_of(runtime, prompt=PROMPT, block="fetched", **how):
    answer = runtime.generate(prompt, edgemem.Generation(**how), block=block)
    answer.all()
    return answer


def test_a_text_that_ends_an_answer_is_no_part_of_it(runtime):
    whole = answer_of(runtime, max_tokens=20).text
    stop = whole[4:7]
    found = answer_of(runtime, max_tokens=20, stop=(stop, "never there"))
    assert found.finish == "stop" and found.text == whole[: whole.index(stop)]
    assert answer_of(runtime, max_tokens=20, stop="never there").text == whole


def test_a_token_that_ends_an_answer_is_no_part_of_it(tiny, copied, seal):
    with edgemem.open_language(tiny) as runtime:
        whole = answer_of(runtime, max_tokens=12)
    end = whole.tokens[5]
    first = whole.tokens.index(end)
    seal(copied, lambda manifest: manifest["text"].update(end=[end]))
    with edgemem.open_language(copied) as runtime:
        found = answer_of(runtime, max_tokens=12)
    assert found.finish == "end" and found.tokens == whole.tokens[: first + 1]
    assert whole.text.startswith(found.text)


def test_an_answer_ends_where_the_context_is_full(runtime):
    context = runtime.bundle.manifest.text.context
    found = answer_of(runtime, max_tokens=10_000)
    assert found.finish == "context"
    assert found.prompt_tokens + len(found.tokens) == context
    longest = "a" * (context - 1)
    assert len(answer_of(runtime, longest).tokens) == 1
    with pytest.raises(edgemem.InputError, match="96 tokens"):
        answer_of(runtime, longest + "a")


def test_an_answer_of_one_token(runtime):
    found = answer_of(runtime, max_tokens=1)
    assert found.finish == "length" and len(found.tokens) == 1


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_held_back_text_is_what_could_become_a_stop(text, stops, cuts):
    held, shown, given_so_far = StopText(stops), "", ""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for first, last in pairwise(places):
        given_so_far += text[first:last]
        shown += held.add(text[first:last])
        if held.found:
            break
        # What is not shown may still become a stop.
        rest = given_so_far[len(shown) :]
        assert given_so_far.startswith(shown)
        assert rest == "" or any(stop.startswith(rest) for stop in stops)
    first = min((p for stop in stops if (p := given_so_far.find(stop)) >= 0), default=None)
    assert held.found == (first is not None)
    if first is None:
        assert shown + held.rest() == given_so_far
    else:
        assert shown == given_so_far[:first]
