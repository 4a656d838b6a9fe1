"""Anchors are loaded as transformers loads them, or refused by name."""

import json

import pytest
import torch
import transformers
from language_models import save, tiny

from edgemem.errors import AttachError, CheckpointError
from edgemem.files.atomic import sha256_file
from edgemem.models.memory.anchor import check_network, load_anchor, weights_hash

IDS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("anchor") / "llama", tiny())


def test_an_anchor_is_the_model_that_was_saved(folder):
    anchor = load_anchor(folder)
    with torch.no_grad():
        assert torch.equal(anchor.network(input_ids=IDS).logits, tiny()(input_ids=IDS).logits)
    assert (anchor.context, anchor.vocabulary, anchor.end) == (96, 258, (0,))
    assert anchor.tokenizer_sha256 == sha256_file(folder / "tokenizer.json")
    assert not any(value.requires_grad for value in anchor.network.parameters())


def test_the_hash_is_of_the_weights_and_not_of_their_file(folder, tmp_path):
    expected = load_anchor(folder).sha256
    tiny().save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_anchor(tmp_path).sha256 == expected
    other = tiny()
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    assert weights_hash(other) != expected


def test_a_missing_tokenizer_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_anchor(tmp_path)


def test_missing_weights_are_refused(folder, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="holds no weights in safetensors, and 0 GGUF"):
        load_anchor(tmp_path)
    with pytest.raises(CheckpointError, match="is no folder"):
        load_anchor(tmp_path / "nothing")


def test_damaged_weights_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            content[: len(content) // 2] if path.suffix == ".safetensors" else content
        )
    with pytest.raises(CheckpointError, match="no causal language model"):
        load_anchor(tmp_path)


def test_a_model_of_another_task_is_refused(tmp_path, folder):
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match="lacks 6 weights of a BertLMHeadModel"):
        load_anchor(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "resnet"}))
    with pytest.raises(CheckpointError):
        load_anchor(tmp_path)


def test_layers_of_other_kinds_are_refused():
    network = tiny("qwen2")
    network.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(AttachError, match="layers of linear_attention"):
        check_network(network)
