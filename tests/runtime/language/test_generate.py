"""Answers are those of transformers, token by token, with and without memories."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_memories import TEXTS

import edgemem
from edgemem.bank.memories.text_key import text_key
from edgemem.block import Block
from edgemem.models.memory.feed_forward import tensors_of, with_block
from edgemem.runtime.language import decoding
from edgemem.runtime.language.generation import next_token

PROMPTS = ("The river Oder", TEXTS[2], "é")
LENGTH = 20


def ids_of(runtime, prompt):
    return torch.tensor([runtime._tokens.encode(prompt)])


@torch.no_grad()
def transformers_answer(exported, ids, block):
    """What transformers generates greedily, with a block beside its layers."""
    network = exported.anchor.network
    with with_block(exported.layers, exported.spec, tensors_of(Block(block))):
        found = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    return found[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("block", ["off", "generic", "fetched", "0", "1/2"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_those_of_transformers(exported, runtime, prompt, block):
    answer = runtime.generate(prompt, edgemem.Generation(LENGTH), block=block)
    answer.all()
    arrays = runtime.memory(prompt, block).arrays
    assert answer.tokens == transformers_answer(exported, ids_of(runtime, prompt), arrays)
    assert answer.prompt_tokens == ids_of(runtime, prompt).shape[1]


def test_the_block_is_that_of_the_prompt_and_matters(exported, runtime):
    memories, tree, _ = exported.made
    spec, weights = memories.memories.spec, memories.memories.weights
    how = edgemem.Generation(LENGTH)
    for text in (TEXTS[0], TEXTS[2], TEXTS[4]):
        path = tree.path(text_key(text, spec.key, weights))
        answer = runtime.generate(text, how)
        assert (answer.memory.kind, answer.memory.path) == ("fetched", "/".join(map(str, path)))
        assert answer.all() != runtime.generate(text, how, block="off").all()
    zero = runtime.memory(TEXTS[0], "off").arrays
    assert not any(array.any() for array in zero.values())


def test_a_prompt_of_unknown_words_gets_the_generic_block(runtime):
    memory = runtime.memory("?! …")
    assert memory.kind == "generic" and not memory.events
    assert Block(memory.arrays).has_values_of(runtime.bundle.memories.generic)


def test_losses_are_the_cross_entropy_of_torch(exported, runtime):
    prompt, text = "The river", " Oder floods the meadows"
    for block in ("off", "fetched"):
        found = runtime.losses(prompt, text, block=block)
        ids, start = ids_of(runtime, prompt + text), ids_of(runtime, prompt).shape[1]
        arrays = tensors_of(Block(runtime.memory(prompt, block).arrays))
        with torch.no_grad(), with_block(exported.layers, exported.spec, arrays):
            logits = exported.anchor.network(input_ids=ids).logits[0, start - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="none")
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


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
from edgemem.bank.memories.text_key import text_key
with edgemem.open_language(sys.argv[1], threads=1) as runtime:
    answer = runtime.generate(sys.argv[2], edgemem.Generation(12))
    answer.all()
heavy = {"torch", "onnx", "onnxscript", "transformers"} & set(sys.modules)
print(answer.tokens, sorted(heavy))
"""


def test_a_device_needs_neither_torch_nor_transformers(exported, runtime):
    answer = runtime.generate(TEXTS[0], edgemem.Generation(12))
    answer.all()
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, exported.bundle, TEXTS[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == f"{answer.tokens} []"
