"""Answers are those of transformers, token by token, with and without memories."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_memories import TEXTS

import edgemem
from edgemem.block import Block
from edgemem.runtime.language import decoding
from edgemem.runtime.language.generation import next_token

LENGTH = 20


def test_greedy_answers_are_those_of_transformers(runtime, recorded):
    for told in recorded["answers"]:
        answer = runtime.generate(told["prompt"], edgemem.Generation(LENGTH), block=told["block"])
        answer.all()
        assert answer.tokens == told["tokens"], told
        assert (answer.prompt_tokens, answer.memory.path) == (len(told["ids"]), told["path"])
    assert {len(told["path"]) for told in recorded["answers"]} == {0, 1, 3}
    assert len({tuple(told["tokens"]) for told in recorded["answers"]}) > 12


def test_the_block_off_is_zero_and_the_fetched_one_matters(runtime):
    how = edgemem.Generation(LENGTH)
    assert not any(array.any() for array in runtime.memory(TEXTS[0], "off").arrays.values())
    paths = set()
    for text in TEXTS:
        answer = runtime.generate(text, how)
        assert answer.all() != runtime.generate(text, how, block="off").all()
        paths.add(answer.memory.path)
    assert len(paths) > 2


def test_a_prompt_of_unknown_words_gets_the_generic_block(runtime):
    memory = runtime.memory("?! …")
    assert memory.kind == "generic" and not memory.events
    assert Block(memory.arrays).has_values_of(runtime.bundle.memories.generic)


def test_losses_are_the_cross_entropy_of_torch(runtime, recorded):
    for block, losses in recorded["losses"].items():
        found = runtime.losses("The river", " Oder floods the meadows", block=block)
        np.testing.assert_allclose(found, losses, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_prompt_in_pieces_is_the_prompt(runtime, monkeypatch, size):
    whole = runtime.generate(TEXTS[0], edgemem.Generation(8))
    whole.all()
    expected = runtime.losses("The river", " Oder floods")
    monkeypatch.setattr(decoding, "CHUNK", size)
    parts = runtime.generate(TEXTS[0], edgemem.Generation(8))
    parts.all()
    assert parts.tokens == whole.tokens
    np.testing.assert_allclose(runtime.losses("The river", " Oder floods"), expected, rtol=1e-4)


def test_pieces_come_one_by_one_and_are_the_answer(runtime):
    answer = runtime.generate(TEXTS[0], edgemem.Generation(12))
    assert (answer.text, answer.tokens, answer.finish) == ("", [], None)
    first = next(answer)
    assert answer.text == first and 0 < len(answer.tokens) < 12
    pieces = [first, *answer]
    assert "".join(pieces) == answer.text == answer.all() and answer.finish == "length"
    assert len(answer.tokens) == 12 and len(pieces) > 3
    with pytest.raises(StopIteration):
        next(answer)


def test_two_answers_at_once_do_not_disturb_each_other(runtime):
    how = edgemem.Generation(10)
    alone = [runtime.generate(text, how).all() for text in TEXTS[:2]]
    both = [runtime.generate(text, how) for text in TEXTS[:2]]
    for _ in zip(*both, strict=False):
        pass
    assert [answer.all() for answer in both] == alone


def test_the_same_seed_draws_the_same_tokens(runtime):
    def drawn(seed, **more):
        return runtime.generate(
            TEXTS[0], edgemem.Generation(12, temperature=1.5, seed=seed, **more)
        ).all()

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 2
    greedy = runtime.generate(TEXTS[0], edgemem.Generation(12)).all()
    assert drawn(3, top_p=1e-9) == greedy


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=9),
    temperature=st.floats(0.1, 5),
    top_p=st.floats(0.01, 1),
    seed=st.integers(0, 1 << 20),
)
def test_only_tokens_of_the_share_are_drawn(logits, temperature, top_p, seed):
    array = np.array(logits, np.float32)
    how = edgemem.Generation(temperature=temperature, top_p=top_p)
    token = next_token(array, how, np.random.default_rng(seed))
    shares = [math.exp((float(x) - max(array)) / temperature) for x in array]
    likelier = sum(s for s in shares if s > shares[token] * (1 + 1e-9)) / sum(shares)
    assert likelier < top_p + 1e-9


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    random = np.random.default_rng(0)
    how = edgemem.Generation(temperature=1.0, top_p=0.9)
    counts = np.bincount([next_token(logits, how, random) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.012)


WITHOUT_TORCH = """
import sys
import edgemem
with edgemem.open_language(sys.argv[1], threads=1) as runtime:
    answer = runtime.generate(sys.argv[2], edgemem.Generation(12))
    answer.all()
heavy = {"torch", "onnx", "onnxscript", "transformers"} & set(sys.modules)
print(answer.tokens, sorted(heavy))
"""


def test_a_device_needs_neither_torch_nor_transformers(tiny, runtime):
    answer = runtime.generate(TEXTS[0], edgemem.Generation(12))
    answer.all()
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, tiny, TEXTS[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == f"{answer.tokens} []"
