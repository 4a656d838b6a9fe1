"""What cannot be is refused by name; damage costs the fetched block and no more."""

import logging
import sys

import numpy as np
import pytest
from made_memories import TEXTS, make_memories, spec_of

import edgemem
from edgemem.bank.levels.level import Level
from edgemem.demo import BUNDLE
from edgemem.files.atomic import sha256_file

PROMPT = TEXTS[0]


@pytest.mark.parametrize(
    "prompt, reason",
    [
        ("", "prompt: is empty"),
        (" \n\t", "prompt: is empty"),
        ("caf\udce9", "prompt: is not UTF-8"),
        (b"bytes", "is no text"),
        (None, "is no text"),
        ("long " * 100, "tokens; with one of an answer at most 96 fit"),
    ],
)
def test_a_prompt_that_is_none_is_refused(runtime, prompt, reason):
    with pytest.raises(edgemem.InputError, match=reason):
        runtime.generate(prompt)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
        {"stop": ("",)},
        {"stop": (3,)},
        {"stop": 3},
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    name = next(iter(settings))
    with pytest.raises(edgemem.InputError, match=f"^{name}="):
        edgemem.Generation(**settings)


@pytest.mark.parametrize(
    "block, reason",
    [
        ("none", "is no path"),
        ("0/", "is no path"),
        ("00", "is no path"),
        ("2", "no path of 2 levels"),
        ("0/0/0", "no path of 2 levels"),
        ("1/0", "no path of 2 levels"),
        (7, "is no path"),
    ],
)
def test_a_block_that_is_not_there_is_refused(runtime, block, reason):
    with pytest.raises(edgemem.InputError, match=reason):
        runtime.generate(PROMPT, block=block)


def test_a_denied_path_is_never_read(tiny):
    with edgemem.open_language(tiny) as runtime:
        path = runtime.memory(PROMPT).path
    with edgemem.open_language(tiny, deny=[path]) as runtime:
        memory = runtime.memory(PROMPT)
        assert memory.denied and memory.path == path.partition("/")[0]
        assert not any(memory.arrays[name].any() for name in memory.arrays if name[0] == "2")
        with pytest.raises(edgemem.InputError, match="is denied"):
            runtime.generate(PROMPT, block=path)
    with edgemem.open_language(tiny, deny=path.partition("/")[0]) as runtime:
        denied = runtime.generate(PROMPT)
        assert denied.memory.denied and denied.memory.kind == "off"
        assert denied.all() == runtime.generate(PROMPT, block="off").all()
    with pytest.raises(edgemem.InputError, match="no path of 2 levels"):
        edgemem.open_language(tiny, deny=["9"])


def flip_row(bundle, path):
    """Alter one byte of the last row of a path."""
    rows = [int(row) for row in path.split("/")]
    file = bundle / "bank" / f"level-{len(rows)}.safetensors"
    with Level(file) as level:
        place = level.begin["blocks"] + rows[-1] * level.shape.row_bytes
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_damaged_row_costs_the_fetched_block_and_no_more(copied, caplog):
    with edgemem.open_language(copied) as runtime:
        path = runtime.memory(PROMPT).path
        generic = runtime.generate(PROMPT, block="generic").all()
        other = runtime.generate(TEXTS[2])
        expected = other.all()
    flip_row(copied, path)
    with edgemem.open_language(copied) as runtime, caplog.at_level(logging.WARNING):
        answer = runtime.generate(PROMPT)
        assert answer.all() == generic and answer.memory.kind == "generic"
        (event,) = answer.events
        assert event.kind == "damaged" and "level-2" in event.message
        assert "check sum" in caplog.text
        assert runtime.generate(TEXTS[2]).all() == expected


def test_what_damage_hides_is_not_given_where_something_is_denied(copied):
    with edgemem.open_language(copied) as runtime:
        path = runtime.memory(PROMPT).path
    with Level(copied / "bank" / "level-1.safetensors") as level:
        place = level.begin["keys"]
    content = bytearray(level.path.read_bytes())
    content[place + 2] ^= 1
    level.path.write_bytes(content)
    with edgemem.open_language(copied) as runtime:
        assert runtime.memory(PROMPT).kind == "generic"
    with edgemem.open_language(copied, deny=[path]) as runtime:
        memory = runtime.memory(PROMPT)
        assert (memory.kind, memory.denied, len(memory.events)) == ("off", True, 1)
        assert not any(array.any() for array in memory.arrays.values())


@pytest.mark.parametrize("name", ["decode.onnx", "weights.bin", "tokenizer.json"])
def test_an_altered_file_is_refused(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(edgemem.BundleError, match=f"{name}: does not have the hash"):
        edgemem.open_language(copied)


def test_a_tokenizer_that_is_none_is_refused(copied, seal):
    (copied / "tokenizer.json").write_text("{}")
    seal(copied)
    with pytest.raises(edgemem.BundleError, match="memories of another tokenizer"):
        edgemem.open_language(copied)

    now = sha256_file(copied / "tokenizer.json")
    seal(copied, lambda manifest: manifest["memories"].update(tokenizer=now))
    with pytest.raises(edgemem.BundleError, match=r"tokenizer\.json: is no tokenizer"):
        edgemem.open_language(copied)


def test_memories_of_another_anchor_are_refused(copied, seal):
    seal(copied, lambda manifest: manifest["memories"].update(anchor="0" * 64))
    with pytest.raises(edgemem.BundleError, match="memories of another anchor"):
        edgemem.open_language(copied)


def test_a_graph_with_other_inputs_is_refused(copied, seal):
    def narrow(manifest):
        for given in manifest["text"]["inputs"]:
            if given["name"].startswith("past.0"):
                given["shape"][1] += 1

    seal(copied, narrow)
    with pytest.raises(edgemem.BundleError, match=r"decode\.onnx: has other inputs"):
        edgemem.open_language(copied)


def test_each_kind_of_bundle_is_opened_by_its_own_function(tiny, tmp_path):
    with pytest.raises(edgemem.BundleError, match="of kind text, not frames.*open_language"):
        edgemem.open(tiny)
    with pytest.raises(edgemem.BundleError, match=r"of kind frames, not text.*edgemem\.open"):
        edgemem.open_language(BUNDLE)
    bank = make_memories(tmp_path / "town.memories", spec_of())[0].path
    with pytest.raises(edgemem.BundleError, match=r"of kind memories, not text.*export-lm"):
        edgemem.open_language(bank)


def test_the_extra_is_named_where_it_is_missing(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(edgemem.MissingExtraError, match=r"pip install 'edgemem\[lm\]'"):
        edgemem.open_language(tiny)


def test_logits_that_are_not_finite_are_refused(runtime, monkeypatch):
    memory = runtime.memory(PROMPT)
    arrays = {name: array + np.float32(1e25) for name, array in memory.arrays.items()}
    monkeypatch.setattr(type(runtime), "memory", lambda *_: type(memory)("fetched", arrays, "0/0"))
    with pytest.raises(edgemem.BundleError, match="not finite.*block off"):
        runtime.generate(PROMPT).all()


def test_an_answer_without_tokens_of_its_own_is_refused(runtime):
    with pytest.raises(edgemem.InputError, match="has no tokens of its own"):
        runtime.losses("the ", "")


def test_a_closed_runtime_is_refused(tiny):
    runtime = edgemem.open_language(tiny)
    runtime.close()
    runtime.close()
    with pytest.raises(edgemem.InputError, match="runtime: is closed"):
        runtime.generate(PROMPT)


@pytest.mark.parametrize("threads", [-1, 1.5, 1000])
def test_threads_that_no_engine_should_start_are_refused(tiny, threads):
    with pytest.raises(edgemem.InputError, match="threads"):
        edgemem.open_language(tiny, threads=threads)
