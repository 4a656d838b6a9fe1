"""Banks of memories with random blocks, written to a folder."""

import numpy as np

from edgemem.bank.memories.memory_writing import build_tree, write_memories
from edgemem.bank.memories.text_key import key_weights, text_key
from edgemem.block import Block
from edgemem.bundle.text.memory_spec import KeySpec, LevelSpec, MemorySpec

TEXTS = (
    "The river Oder floods the meadows of Kostrzyn in spring",
    "Kostrzyn lies where the river Warta meets the Oder",
    "A violin has four strings and a bridge of maple",
    "The cello is tuned an octave below the viola strings",
    "Granite cools slowly and its crystals grow large",
    "Basalt cools fast, so crystals in basalt stay small",
    "Bees dance to tell where flowers bloom",
    "Ants follow a trail that other ants have marked",
)


def spec_of(anchor="a" * 64, tokenizer="b" * 64, **changes):
    """A spec of two levels; changes: other fields."""
    fields = {
        "layers": ("model.layers.1.mlp", "model.layers.2.mlp"),
        "width": 3,
        "gated": True,
        "levels": (LevelSpec(2), LevelSpec(1)),
        "key": KeySpec("hashed_tfidf", 64),
    }
    return MemorySpec(anchor, tokenizer, **(fields | changes))


def rows_of(spec, tree, seed=0, size=1.0):
    """Random blocks of every node, level by level."""
    random = np.random.default_rng(seed)
    return [
        (size * random.normal(size=(len(keys), count))).astype(np.float32)
        for keys, count in zip(tree.keys, spec.elements, strict=True)
    ]


def generic_of(spec, seed=7, size=1.0):
    """A random block as the graphs take it."""
    random = np.random.default_rng(seed)
    return Block(
        {
            array.name: (size * random.normal(size=array.shape)).astype(np.float32)
            for array in spec.inputs().arrays
        }
    )


def make_memories(out, spec, texts=TEXTS, branch=2, seed=0, size=1.0, storage="float32"):
    """Write a bank whose tree is that of some texts; opened, with its tree and rows."""
    weights = key_weights(texts, spec.key)
    keys = np.stack([text_key(text, spec.key, weights) for text in texts])
    tree = build_tree(keys, levels=len(spec.levels), branch=branch)
    rows = rows_of(spec, tree, seed, size)
    generic = generic_of(spec, size=size)
    found = write_memories(out, spec, tree, rows, generic, weights, storage=storage)
    return found, tree, rows
