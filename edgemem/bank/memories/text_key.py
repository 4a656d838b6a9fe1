"""The key of a text: hashed TF-IDF, by which its memories are found.

docs/formats/text.md describes it, so that other languages compute the same.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgemem.bundle.text.memory_spec import KeySpec
from edgemem.errors import InputError

WORD = re.compile(r"\w+")
Weights = NDArray[np.float32]


def text_key(text: str, spec: KeySpec, weights: Weights) -> NDArray[np.float32]:
    """The key [length] of a text: of length 1, or zeros where no word of it is known.

    A word counts by the bucket of its hash: (1 + ln of how often it is there) * weight.
    """
    key = np.zeros(spec.length)
    for bucket, count in _buckets(text, spec.length).items():
        key[bucket] = (1.0 + math.log(count)) * weights[bucket]
    size = math.sqrt(float(key @ key))
    found: NDArray[np.float32] = (key / size if size else key).astype(np.float32)
    return found


def key_weights(texts: Iterable[str], spec: KeySpec) -> Weights:
    """The weights [length] of buckets: 1 + ln((1 + texts) / (1 + texts with such a word)).

    0 for buckets that no text has: what was never seen tells nothing.

    Raises:
        InputError: there is no text with a word.
    """
    held, total = np.zeros(spec.length), 0
    for text in texts:
        held[list(_buckets(text, spec.length))] += 1
        total += 1
    if not held.any():
        raise InputError("texts", "hold no word", "Pass texts with words")
    weights = np.where(held > 0, 1.0 + np.log((1.0 + total) / (1.0 + held)), 0.0)
    found: Weights = weights.astype(np.float32)
    return found


def _buckets(text: str, length: int) -> Counter[int]:
    words = WORD.findall(text.casefold())
    return Counter(zlib.crc32(word.encode("utf-8", "replace")) % length for word in words)
