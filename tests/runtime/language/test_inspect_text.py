"""`edgemem inspect` of bundles of text and banks of memories."""

import json

import pytest
from commands import run_command
from made_memories import make_memories, spec_of

from edgemem.bundle.text.text_opening import open_memories, open_text_bundle


def words_of(text):
    return [line.strip().split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_a_bundle_of_text_shows_its_model_its_memories_and_its_files(tiny):
    found = run_command("inspect", tiny)
    manifest = open_text_bundle(tiny).manifest
    assert found.returncode == 0 and found.stderr == ""
    words = words_of(found.stdout)
    assert ["kind", "text"] in words
    assert ["vocabulary", f"{manifest.text.vocabulary:,} tokens"] in words
    assert all(name in found.stdout for name in manifest.files)
    for level, count in zip(manifest.memories.levels, manifest.memories.elements, strict=True):
        assert f"rank {level.rank}, {count:,} numbers a block" in found.stdout
    told = json.loads(run_command("inspect", tiny, "--json").stdout)
    assert told == json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))


def test_a_bank_of_memories_shows_whose_it_is(tmp_path):
    make_memories(tmp_path / "bank", spec_of())
    found = run_command("inspect", tmp_path / "bank")
    assert found.returncode == 0
    assert ["kind", "memories"] in words_of(found.stdout)
    assert ["anchor", "a" * 12] in words_of(found.stdout)
    told = json.loads(run_command("inspect", tmp_path / "bank", "--json").stdout)
    assert told["memories"]["anchor"] == open_memories(tmp_path / "bank").manifest.memories.anchor


@pytest.mark.parametrize("name", ["decode.onnx", "bank/generic.safetensors", "manifest.json"])
def test_what_is_not_as_it_was_written_is_named(name, copied):
    content = bytearray((copied / name).read_bytes())
    content[-9] ^= 1
    (copied / name).write_bytes(content)
    found = run_command("inspect", copied)
    assert found.returncode == 2 and found.stdout == ""
    assert f"copy.edgemem/{name}" in found.stderr and "Traceback" not in found.stderr
