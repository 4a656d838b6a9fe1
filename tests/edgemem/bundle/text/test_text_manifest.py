"""Manifests of text and of memories: read back as written, and refused where they do not fit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_memories import spec_of
from sealing import sealed

from edgemem.bundle.manifest import FileRecord
from edgemem.bundle.text.memory_spec import KeySpec, LevelSpec, block_bytes
from edgemem.bundle.text.text_manifest import (
    GraphInput,
    MemoryManifest,
    TextManifest,
    TextSpec,
    expected_inputs,
    memories_from_json,
    memories_to_json,
    text_from_json,
    text_to_json,
)
from edgemem.errors import BundleError

PAST = tuple(
    GraphInput(f"past.{layer}.{kind}", "float32", (1, 2, "past", 4))
    for layer in range(2)
    for kind in "kv"
)


def records(spec, *more):
    sizes = {
        "bank/generic.safetensors": block_bytes(spec) + 500,
        "bank/key.safetensors": 4 * spec.key.length + 80,
        **{f"bank/level-{n + 1}.safetensors": 5000 for n in range(len(spec.levels))},
    }
    found = {name: FileRecord(size, "c" * 64) for name, size in sizes.items()}
    return found | {name: FileRecord(100, "b" * 64) for name in more}


def manifest_of(memories):
    files = ("decode.onnx", "tokenizer.json", "weights.bin", "reference.safetensors")
    held = {name: FileRecord(100, "b" * 64) for name in files}
    return TextManifest(
        name="tiny",
        graph="decode.onnx",
        text=TextSpec(258, 96, (0, 7), expected_inputs(PAST, memories)),
        tokenizer="tokenizer.json",
        reference="reference.safetensors",
        anchor="a" * 64,
        memories=memories,
        files=held if memories is None else records(memories, *files),
        exported_from={"model": "Tiny"},
    )


@pytest.mark.parametrize("memories", [None, spec_of()])
def test_a_manifest_of_text_comes_back(memories):
    manifest = manifest_of(memories)
    assert text_from_json(text_to_json(manifest), "x") == manifest


specs = st.builds(
    spec_of,
    anchor=st.just("a" * 64),
    layers=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4, unique=True).map(
        tuple
    ),
    width=st.integers(1, 40),
    gated=st.booleans(),
    levels=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
        lambda ranks: (LevelSpec(ranks[0]), *(LevelSpec(rank) for rank in ranks[1:]))
    ),
    key=st.builds(KeySpec, st.just("hashed_tfidf"), st.integers(1, 4096)),
)


@given(specs)
def test_a_manifest_of_memories_comes_back(spec):
    manifest = MemoryManifest("town", spec, records(spec), {"texts": 3})
    assert memories_from_json(memories_to_json(manifest), "x") == manifest
    assert sum(array.nbytes for array in spec.inputs().arrays) == block_bytes(spec)


def changed(change):
    document = json.loads(text_to_json(manifest_of(spec_of())))
    change(document)
    return sealed(document)


def test_nothing_changed_is_still_good():
    assert text_from_json(changed(lambda document: None), "x") == manifest_of(spec_of())


WRONG = {
    "has format version": lambda d: d.update(format_version=2),
    "is none of text": lambda d: d.update(kind="poems"),
    "is of kind memories, not text": lambda d: d.update(kind="memories"),
    "is of kind frames, not text": lambda d: d.pop("kind"),
    "holds other graphs than": lambda d: d["graphs"].update(encode="e.onnx"),
    "not listed, is a level": lambda d: d.update(tokenizer="other.json"),
    "is a level, or has": lambda d: d.update(tokenizer="bank/level-1.safetensors"),
    "has more than 4,194,304 bytes": lambda d: d["files"]["reference.safetensors"].update(
        size=1 << 23
    ),
    "is no SHA-256": lambda d: d.update(anchor="ABC"),
    "memories of another anchor": lambda d: d.update(anchor="d" * 64),
    "memories of another tokenizer": lambda d: d["files"]["tokenizer.json"].update(sha256="d" * 64),
    "an end that is no token": lambda d: d["text"].update(end=[258]),
    "vocabulary: 0 is not a count": lambda d: d["text"].update(vocabulary=0),
    "inputs that are not those of decode": lambda d: d["text"]["inputs"].reverse(),
    "holds no past": lambda d: d["text"]["inputs"][3].update(shape=[1, 2, "new", 4]),
    "is none of new, past, asked": lambda d: d["text"]["inputs"][3].update(shape=["many"]),
    "levels, but no memories": lambda d: (
        d.update(memories=None),
        d["text"].update(inputs=d["text"]["inputs"][:7]),
    ),
    "is none of feed_forward": lambda d: d["memories"].update(kind="lora"),
    "is none of hashed_tfidf": lambda d: d["memories"]["key"].update(name="bert"),
    "does not follow from layers": lambda d: d["memories"].update(width=4),
    "a layer is named twice": lambda d: d["memories"].update(layers=["a", "a"]),
    "is none of separate, sum": lambda d: d["memories"]["levels"][0].update(combine="max"),
    "no level above to be added to": lambda d: d["memories"]["levels"][0].update(combine="sum"),
    "has another rank": lambda d: d["memories"]["levels"][1].update(combine="sum"),
    "other files than 2 levels": lambda d: d["files"].pop("bank/level-2.safetensors"),
    "or not of the size of its arrays": lambda d: d["files"]["bank/key.safetensors"].update(size=9),
    "more than 17,179,869,184": lambda d: d["files"]["weights.bin"].update(size=1 << 40),
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_does_not_fit_is_refused(reason):
    with pytest.raises(BundleError, match=reason):
        text_from_json(changed(WRONG[reason]), "x")


def test_a_block_larger_than_any_is_refused_before_memory_is_reserved():
    spec = spec_of(width=1 << 20, levels=(LevelSpec(1 << 20),))
    manifest = MemoryManifest("town", spec, records(spec_of()))
    with pytest.raises(BundleError, match="does not fit together: a block of level 1"):
        memories_from_json(memories_to_json(manifest), "x")
