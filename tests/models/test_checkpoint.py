"""Checkpoints: others' read safely, ours read back exactly."""

import copy
import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemem.errors import CheckpointError, InputError
from edgemem.models import Form, Normalization, attach, load_adaptive, load_into, save_adaptive
from edgemem.models.adaptive_checkpoint import is_adaptive
from edgemem.models.checkpoint import read_checkpoint, read_tensors, write_tensors
from edgemem.models.networks import resnet20
from edgemem.models.networks.digits import Digits


@pytest.fixture(scope="module")
def network(lively):
    return lively(Digits(width=4))


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 7, "best_prec1": 91.7},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "net in model": lambda state: {"model": {"net": state}},
    "module": lambda state: {f"module.{name}": value for name, value in state.items()},
    "module in state_dict": lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()}
    },
    "without counters": lambda state: {
        n: v for n, v in state.items() if not n.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("suffix", ["pt", "th", "pth", "bin"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_wrapped_checkpoint_is_understood(suffix, wrapping, zipped, network, tmp_path):
    path = tmp_path / f"net.{suffix}"
    stored = WRAPPINGS[wrapping](network.state_dict())
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    other = Digits(width=4).eval()
    load_into(other, path)
    x = torch.rand(2, 1, 8, 8)
    assert other(x).equal(network(x))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_checkpoint_is_understood(prefix, network, tmp_path):
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    other = Digits(width=4).eval()
    load_into(other, tmp_path / "net.safetensors")
    assert all(v.equal(network.state_dict()[n]) for n, v in other.state_dict().items())


class Code:
    """What runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_checkpoint_that_needs_code_is_refused_and_none_runs(how, network, tmp_path):
    path, trace = tmp_path / "net.pt", tmp_path / "trace"
    stored = {"state_dict": network.state_dict(), "args": Code(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(stored))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="needs code to be unpickled.*Save the state dict"):
        load_into(Digits(width=4), path)
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="needs code"):
        load_into(Digits(width=4), tmp_path / "net.pt")


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    """Bytes of one checkpoint in every format."""
    folder = tmp_path_factory.mktemp("saved")
    small = {name: v for name, v in network.state_dict().items() if v.numel() < 100}
    torch.save(small, folder / "zip.pt")
    torch.save(small, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(small, folder / "net.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_checkpoint_gives_our_error_or_tensors(saved, tmp_path, data):
    """Cut off anywhere, or with any bytes changed."""
    name = data.draw(st.sampled_from(sorted(saved)))
    content = bytearray(saved[name])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content) - 1)))
    path = tmp_path / name
    path.write_bytes(content[:keep])
    try:
        state = read_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert any(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({}, "holds no state dict"),
        ([torch.zeros(2)], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({0: torch.zeros(2)}, "does not fit Digits"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(stored, reason, tmp_path):
    torch.save(stored, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=reason):
        load_into(Digits(width=4), tmp_path / "net.pt")


def test_a_checkpoint_of_another_architecture_is_refused_and_nothing_loaded(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    for other in (resnet20(), Digits(width=5), Digits(classes=9, width=4)):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(CheckpointError, match=rf"does not fit {type(other).__name__}: \d+ "):
            load_into(other, tmp_path / "net.pt")
        assert all(value.equal(before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "folder.pt", "net.onnx", "net"])
def test_a_path_that_is_no_checkpoint_is_named(name, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match=name):
        load_into(Digits(width=4), tmp_path / name)


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
        with pytest.raises(CheckpointError, match="unreadable metadata"):
            load_adaptive(path, Digits(width=4))
    attachment = {**json.loads(metadata["attachment"]), "normalization": {"mean": [0]}}
    write_tensors(path, tensors, {**metadata, "attachment": json.dumps(attachment)})
    with pytest.raises(CheckpointError, match="unreadable metadata"):
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
