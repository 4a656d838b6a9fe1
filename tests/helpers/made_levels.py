"""Levels with random arrays, written to a folder."""

import numpy as np
from hypothesis import strategies as st

from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level

STORAGES = ("float32", "float16", "int8")


def arrays(shape, seed=0, absent=()):
    """Keys, counts and blocks of a level."""
    random = np.random.default_rng(seed)
    keys = random.normal(size=(shape.rows, shape.key_length)).astype(np.float32)
    count = random.integers(1, 100, shape.rows)
    blocks = random.normal(size=(shape.rows, shape.elements)).astype(np.float32)
    for row in absent:
        keys[row], count[row], blocks[row] = np.inf, 0, 0
    return keys, count, blocks


def make(folder, shape, seed=0, absent=()):
    """Write a level under its usual name; its path and arrays."""
    keys, count, blocks = arrays(shape, seed, absent)
    path = folder / f"level-{shape.number}.safetensors"
    write_level(path, shape, keys, count, iter(blocks))
    return path, keys, count, blocks


shapes = st.builds(
    LevelShape,
    number=st.integers(1, 3),
    branch=st.integers(2, 5),
    key_length=st.integers(1, 7),
    elements=st.integers(0, 9),
    storage=st.sampled_from(STORAGES),
)


def tolerance(storage, block):
    largest = float(np.abs(block).max(initial=0))
    return {"float32": 0, "float16": largest * 2**-11, "int8": 1.0001 * largest / 254}[storage]
