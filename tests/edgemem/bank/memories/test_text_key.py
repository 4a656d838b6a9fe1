"""The key of a text: what docs/formats/text.md says, and nothing else."""

import math
import zlib

import numpy as np
import pytest

from edgemem.bank.memories.text_key import key_weights, text_key
from edgemem.bundle.text.memory_spec import KeySpec
from edgemem.errors import InputError

SPEC = KeySpec("hashed_tfidf", 997)
TEXTS = ("the red fox", "the blue whale", "the red, RED rose")


def bucket(word):
    return zlib.crc32(word.encode()) % SPEC.length


def test_weights_are_those_of_the_formula():
    weights = key_weights(TEXTS, SPEC)
    assert weights[bucket("the")] == np.float32(1 + math.log(4 / 4))
    assert weights[bucket("red")] == np.float32(1 + math.log(4 / 3))
    assert weights[bucket("whale")] == np.float32(1 + math.log(4 / 2))
    assert np.count_nonzero(weights) == 6 and weights.dtype == np.float32


def test_a_key_counts_words_by_their_weights():
    weights = key_weights(TEXTS, SPEC)
    key = text_key("Red red roses, WHALE", SPEC, weights)
    red = (1 + math.log(2)) * (1 + math.log(4 / 3))
    whale = 1 + math.log(2)
    size = math.hypot(red, whale)
    expected = np.zeros(SPEC.length)
    expected[bucket("red")], expected[bucket("whale")] = red / size, whale / size
    np.testing.assert_allclose(key, expected, rtol=1e-6)


def test_words_that_were_never_seen_tell_nothing():
    weights = key_weights(TEXTS, SPEC)
    assert not text_key("quite unknown, 123 …", SPEC, weights).any()
    np.testing.assert_array_equal(
        text_key("fox", SPEC, weights), text_key("fox unheard", SPEC, weights)
    )


@pytest.mark.parametrize("text", ["", "…", "\ud800"])
def test_a_text_without_words_has_a_key_of_zeros(text):
    assert not text_key(text, SPEC, key_weights(TEXTS, SPEC)).any()


def test_letters_of_every_language_are_words():
    weights = key_weights(["Straße мир 世界"], SPEC)
    assert text_key("STRASSE", SPEC, weights)[bucket("strasse")] == 1
    assert text_key("МИР", SPEC, weights)[bucket("мир")] == 1


def test_texts_without_words_are_refused():
    with pytest.raises(InputError, match="hold no word"):
        key_weights(["", "…"], SPEC)
