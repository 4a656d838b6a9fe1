"""A written bundle gives the logits of transformers, and a zero block those of the anchor."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
import transformers
from commands import run_command
from made_memories import TEXTS, generic_of
from sealing import reseal
from tokenizers import Tokenizer

import edgemem
from edgemem.bundle.text.text_opening import open_memories, open_text_bundle
from edgemem.export.checks.onnx_graphs import session
from edgemem.export.language_models import text_bundle_writer, text_parity
from edgemem.export.language_models.decode_graph import Decoder
from edgemem.export.language_models.text_bundle_writer import export_language
from edgemem.export.language_models.text_parity import LIMIT, relative, run_text
from edgemem.models.memory.feed_forward import tensors_of, with_block

IDS = np.random.default_rng(3).integers(1, 258, (1, 30))


@pytest.fixture(scope="module")
def graph(exported):
    return session(exported.bundle / "decode.onnx")


@pytest.fixture(scope="module")
def decoder(exported):
    return Decoder(exported.anchor, exported.spec)


@torch.no_grad()
def transformers_logits(exported, block=None):
    network, ids = exported.anchor.network, torch.tensor(IDS)
    if block is None:
        return network(input_ids=ids, use_cache=False).logits[0].numpy()
    with with_block(exported.layers, exported.spec, tensors_of(block)):
        return network(input_ids=ids, use_cache=False).logits[0].numpy()


def test_the_figures_of_the_check_are_small_and_its_block_matters(exported):
    parity = exported.parity
    assert parity.anchor < LIMIT / 10 and parity.block < LIMIT / 10 and parity.effect > 0.05
    told = open_text_bundle(exported.bundle).manifest.exported_from["parity"]
    assert told == parity.as_dict()


def test_logits_are_those_of_transformers_with_and_without_a_block(exported, graph, decoder):
    block = generic_of(exported.spec, seed=11, size=0.4)
    for given in (None, block):
        arrays = exported.spec.inputs().zero() if given is None else given
        found = run_text(graph, decoder, IDS, arrays)
        assert relative(found, transformers_logits(exported, given)) < 1e-5
    moved = relative(transformers_logits(exported, block), transformers_logits(exported))
    assert moved > 0.05


def test_a_block_whose_m3_is_zero_changes_no_bit(exported, graph, decoder):
    zero = run_text(graph, decoder, IDS, exported.spec.inputs().zero())
    resting = {
        name: np.zeros_like(array) if name.endswith(".m3") else array
        for name, array in generic_of(exported.spec, seed=5).items()
    }
    assert np.array_equal(run_text(graph, decoder, IDS, resting), zero)


def test_the_bundle_holds_what_it_was_made_from(exported):
    opened = open_text_bundle(exported.bundle)
    manifest = opened.manifest
    bank = open_memories(exported.bank)
    assert manifest.memories == bank.manifest.memories and manifest.name == "tiny"
    assert manifest.anchor == exported.anchor.sha256
    for name in bank.manifest.files:
        assert (exported.bundle / name).read_bytes() == (exported.bank / name).read_bytes()
    tokenizer = (exported.bundle / "tokenizer.json").read_bytes()
    assert tokenizer == (exported.folder / "tokenizer.json").read_bytes()
    text = (exported.bundle / "manifest.json").read_text()
    assert str(exported.folder.parent) not in text
    model = onnx.load(exported.bundle / "decode.onnx", load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}


@pytest.fixture
def untraced(monkeypatch):
    """Nothing may be traced: what is refused is refused before."""

    def traced(*_):
        raise AssertionError

    monkeypatch.setattr(text_bundle_writer, "to_onnx", traced)


def other_bank(exported, tmp_path, **changes):
    """A copy of the bank whose manifest says something else."""

    bank = shutil.copytree(exported.bank, tmp_path / "other.memories")
    reseal(bank, lambda manifest: manifest["memories"].update(changes))
    return bank


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"anchor": "0" * 64}, "was learnt for anchor 000000000000"),
        ({"tokenizer": "0" * 64}, "was learnt with another tokenizer"),
        ({"layers": ["transformer.h.0.mlp", "model.x"]}, "no feed-forward layer 'model.x'"),
    ],
)
@pytest.mark.usefixtures("untraced")
def test_a_bank_of_something_else_is_refused(exported, tmp_path, changes, reason):
    bank = other_bank(exported, tmp_path, **changes)
    with pytest.raises(edgemem.EdgeMemError, match=reason):
        export_language(exported.folder, tmp_path / "new.edgemem", bank)
    assert not (tmp_path / "new.edgemem").exists()


@pytest.mark.usefixtures("untraced")
def test_a_damaged_bank_is_refused(exported, tmp_path):
    bank = other_bank(exported, tmp_path)
    level = bank / "bank" / "level-2.safetensors"
    content = bytearray(level.read_bytes())
    content[-1] ^= 1
    level.write_bytes(content)
    with pytest.raises(edgemem.BankError, match="is damaged"):
        export_language(exported.folder, tmp_path / "new.edgemem", bank)
    with pytest.raises(edgemem.BundleError, match="of kind text, not memories"):
        export_language(exported.folder, tmp_path / "new.edgemem", exported.bundle)


@pytest.mark.usefixtures("untraced")
def test_a_folder_that_is_taken_is_left_alone(exported, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    with pytest.raises(edgemem.InputError, match="exists, and is no folder of kind text"):
        export_language(exported.folder, tmp_path / "taken")
    with pytest.raises(edgemem.InputError, match="exists, and is no folder of kind text"):
        export_language(exported.folder, exported.bank)
    with pytest.raises(edgemem.InputError, match="lie in each other"):
        export_language(exported.folder, exported.folder / "new.edgemem")


@pytest.mark.usefixtures("untraced")
def test_an_anchor_that_no_graph_holds_is_refused(exported, tmp_path, monkeypatch):

    monkeypatch.setattr(text_bundle_writer, "MOST_GRAPH_BYTES", 64 << 20)
    with pytest.raises(edgemem.ExportError, match="more than one ONNX graph holds"):
        export_language(exported.folder, tmp_path / "new.edgemem")


def copy_of(folder, tmp_path):

    return shutil.copytree(folder, tmp_path / "model")


@pytest.mark.usefixtures("untraced")
def test_a_tokenizer_that_gives_other_ids_is_refused(exported, tmp_path, monkeypatch):

    class Other:
        def __call__(self, text):
            return {"input_ids": [1, 2, 3]}

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: Other())
    with pytest.raises(edgemem.ExportError, match="gives other ids than the tokenizer"):
        export_language(exported.folder, tmp_path / "new.edgemem")


@pytest.mark.usefixtures("untraced")
def test_a_tokenizer_that_is_none_is_refused(exported, tmp_path):
    folder = copy_of(exported.folder, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(edgemem.ExportError, match="tokenizer.json: cannot be read"):
        export_language(folder, tmp_path / "new.edgemem")
    (folder / "tokenizer.json").unlink()
    found = run_command("export-lm", folder, "--out", tmp_path / "new.edgemem")
    assert found.returncode == 2 and "has no tokenizer.json" in found.stderr
    assert not (tmp_path / "new.edgemem").exists()


def test_a_graph_that_is_off_is_refused(exported, tmp_path, monkeypatch):
    """The check fails a graph whose memories are another's."""

    decoder = Decoder(exported.anchor, exported.spec)
    whole = text_parity.run_text

    def off(graph, decoder, ids, block):
        return whole(graph, decoder, ids, {n: a * np.float32(0.99) for n, a in block.items()})

    monkeypatch.setattr(text_parity, "run_text", off)
    with pytest.raises(edgemem.ExportError, match="block: onnxruntime and transformers"):
        text_parity.check_text_parity(
            exported.bundle / "decode.onnx",
            decoder,
            open_text_bundle(exported.bundle).memories.generic,
        )


def test_the_command_writes_a_bundle_without_memories(exported, tmp_path):
    out = tmp_path / "alone.edgemem"
    found = run_command("export-lm", exported.folder, "--out", out, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["parity"]["anchor"] < LIMIT / 10
    how = edgemem.Generation(12)
    with edgemem.open_language(out) as alone, edgemem.open_language(exported.bundle) as runtime:
        answer = alone.generate(TEXTS[0], how)
        assert answer.all() == runtime.generate(TEXTS[0], how, block="off").all()
        assert answer.memory.kind == "off"
        with pytest.raises(edgemem.InputError, match="the bundle has none"):
            alone.generate(TEXTS[0], block="generic")
    with pytest.raises(edgemem.InputError, match="has no bank to deny"):
        edgemem.open_language(out, deny=["0"])
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode("the").ids
    own, zero = session(out / "decode.onnx"), session(exported.bundle / "decode.onnx")
    plain, decoder = Decoder(exported.anchor, None), Decoder(exported.anchor, exported.spec)
    at_rest = run_text(zero, decoder, IDS, exported.spec.inputs().zero())
    assert np.array_equal(run_text(own, plain, IDS, {}), at_rest)
