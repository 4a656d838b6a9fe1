"""Checkpoints of adaptive models: they come back equal, and damaged ones are refused."""

import json
import os

import pytest
import torch

from edgemem.errors import CheckpointError, InputError
from edgemem.models import Form, Normalization, attach, load_adaptive, save_adaptive
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.networks import resnet20
from edgemem.models.networks.digits import Digits


@pytest.fixture
def adaptive(network, warmed):
    return warmed(
        attach(
            network,
            ["layer1[0:1]", "layer2"],
            torch.zeros(2, 1, 8, 8),
            statistics=0.3,
            form=Form(5, 2),
            norm_affine=True,
            normalization=Normalization((0.5,), (0.25,)),
        )
    )


def test_an_adaptive_model_comes_back_equal(adaptive, tmp_path):
    path = tmp_path / "warm.safetensors"
    save_adaptive(adaptive, path, {"checkpoint": "net.pt"})
    assert is_adaptive(path)
    again, source = load_adaptive(path, Digits(width=4))
    assert source == {"checkpoint": "net.pt"}
    assert again.attachment == adaptive.attachment
    assert again.warm
    x = torch.rand(5, 1, 8, 8)
    for alpha in (None, torch.tensor(0.3)):
        one, other = adaptive(x, alpha), again(x, alpha)
        assert one.logits.equal(other.logits)
        assert one.key.equal(other.key)
    assert again.frozen_logits(x).equal(adaptive.frozen_logits(x))
    assert list(again.block()) == list(adaptive.block())


def test_an_adaptive_model_that_is_not_warm_stays_so(network, tmp_path):
    path = tmp_path / "cold.safetensors"
    save_adaptive(attach(network, ["layer1"], torch.zeros(2, 1, 8, 8)), path, {})
    assert not load_adaptive(path, Digits(width=4))[0].warm


def test_a_layer_under_two_names_is_saved_too(lively, tmp_path):
    network = lively(Digits(width=4))
    network.alias = network.layer1
    model = attach(network, ["layer2"], torch.zeros(2, 1, 8, 8))
    save_adaptive(model, tmp_path / "warm.safetensors", {})
    other = Digits(width=4)
    other.alias = other.layer1
    again, _ = load_adaptive(tmp_path / "warm.safetensors", other)
    x = torch.rand(2, 1, 8, 8)
    assert again(x).logits.equal(model(x).logits)


def test_an_adaptive_checkpoint_of_another_architecture_is_refused(adaptive, tmp_path):
    save_adaptive(adaptive, tmp_path / "warm.safetensors", {})
    for other in (Digits(width=5), resnet20()):
        with pytest.raises(CheckpointError, match=f"does not fit {type(other).__name__}"):
            load_adaptive(tmp_path / "warm.safetensors", other)


def test_adaptive_checkpoints_with_damaged_notes_are_refused(adaptive, tmp_path):
    path = tmp_path / "warm.safetensors"
    save_adaptive(adaptive, path, {})
    tensors, metadata = read_tensors(path)
    for key, text in {"attachment": "{}", "source": "{", "warm": "yes"}.items():
        write_tensors(path, tensors, {**metadata, key: text})
        with pytest.raises(CheckpointError, match=f"{key}: (lacks|is not JSON)"):
            load_adaptive(path, Digits(width=4))
    attachment = {**json.loads(metadata["attachment"]), "normalization": {"mean": [0]}}
    write_tensors(path, tensors, {**metadata, "attachment": json.dumps(attachment)})
    with pytest.raises(
        CheckpointError, match="attachment: lacks the field 'normalization.deviation'"
    ):
        load_adaptive(path, Digits(width=4))


def test_what_is_not_an_adaptive_checkpoint_is_recognised(network, tmp_path):
    write_tensors(tmp_path / "plain.safetensors", network.state_dict(), {})
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    torch.save(network.state_dict(), tmp_path / "net.pt")
    for name in ("plain.safetensors", "broken.safetensors", "net.pt", "missing.safetensors", "."):
        assert not is_adaptive(tmp_path / name)


def test_a_failing_disk_leaves_the_old_checkpoint(adaptive, tmp_path, monkeypatch):
    path = tmp_path / "warm.safetensors"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save_adaptive(adaptive, path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["warm.safetensors"]
    assert path.read_bytes() == b"old"
