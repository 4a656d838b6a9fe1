"""Checkpoints: others' read safely, ours read back exactly."""

import argparse
import copy
import datetime
import gzip
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemem.demo import BUNDLE
from edgemem.errors import CheckpointError, InputError
from edgemem.models import Form, Normalization, attach, load_adaptive, load_into, save_adaptive
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive
from edgemem.models.checkpoints.checkpoint import read_checkpoint, read_tensors, write_tensors
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


class Nested(torch.nn.Module):
    """A child that is really called module, and one whose name looks like a wrapper's."""

    def __init__(self):
        super().__init__()
        self.module = Digits(width=4)
        self.model = torch.nn.Linear(10, 10)

    def forward(self, x):
        return self.model(self.module(x))


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


def averaged(network):
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


# How it was saved -> what was taken, as it is said; the weights are always the network's.
AS_THEY_COME = {
    "compiled": (lambda s: prefixed("_orig_mod.", s), "without the prefix '_orig_mod.'"),
    "compiled, then DDP": (lambda s: prefixed("module._orig_mod.", s), "'module._orig_mod.'"),
    "DDP, then compiled": (lambda s: prefixed("_orig_mod.module.", s), "'_orig_mod.module.'"),
    "a part compiled": (
        lambda s: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in s.items()}, "took",
    ),
    "a part in DDP": (
        lambda s: {n.replace("layer1.", "layer1.module."): v for n, v in s.items()}, "took",
    ),
    "Lightning": (
        lambda s: {
            "state_dict": {**prefixed("net.", s), "metric.total": torch.ones(3)},
            "hyper_parameters": {"lr": 0.1}, "epoch": 3, "optimizer_states": [{"state": {}}],
        },
        "'state_dict' without the prefix 'net.' (of",
    ),
    "EMA beside": (
        lambda s: {"model_ema": zeros(s), "model": s},
        "took 'model'; also there, not taken: 'model_ema'",
    ),
    "timm": (
        lambda s: {"state_dict_ema": zeros(s), "state_dict": s}, "not taken: 'state_dict_ema'",
    ),
    "EMA in one dict": (
        lambda s: prefixed("ema_model.", zeros(s)) | prefixed("model.", s),
        "not taken: .*ema_model",
    ),
    "EMA alone": (lambda s: {"ema": {"shadow": s}, "epoch": 1}, "took 'ema.shadow'"),
    "teacher beside": (lambda s: {"teacher": zeros(s), "net": s}, "took 'net'; also .*'teacher'"),
    "dicts in dicts": (lambda s: {"epoch": 1, "a": {"b": {"model": s, "c": {}}}}, "'a.b.model'"),
    "optimiser beside": (
        lambda s: {"model": s, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4, 4)}}}},
        "took 'model'",
    ),
    "numbers of numpy": (
        lambda s: {"state_dict": s, "best": np.float64(91.5), "curve": np.arange(3.0),
                   "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
        "took 'state_dict'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("how", AS_THEY_COME)
@pytest.mark.parametrize("model", [lambda: Digits(width=4), Nested], ids=["plain", "nested"])
def test_names_and_shapes_decide_what_is_taken_and_it_is_said(how, zipped, model, lively, tmp_path):
    network, (wrap, said) = lively(model()), AS_THEY_COME[how]
    stored = wrap(network.state_dict())
    torch.save(stored, tmp_path / "net.ckpt", _use_new_zipfile_serialization=zipped)
    other = model().eval()
    taken = load_into(other, tmp_path / "net.ckpt")
    assert all(value.equal(network.state_dict()[n]) for n, value in other.state_dict().items())
    assert re.search(said if ".*" in said else re.escape(said), str(taken)), str(taken)


def test_an_averaged_model_of_torch_is_understood(network, tmp_path):
    torch.save(averaged(network), tmp_path / "swa.pt")
    other = Digits(width=4)
    assert "'module.' (of" in str(load_into(other, tmp_path / "swa.pt"))
    assert all(value.equal(network.state_dict()[n]) for n, value in other.state_dict().items())


def test_of_a_plain_state_dict_there_is_nothing_to_say(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    assert load_into(Digits(width=4), tmp_path / "net.pt").plain
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pt")
    assert not load_into(Digits(width=4), tmp_path / "net.pt").plain


def test_a_real_child_called_module_keeps_its_name(lively, tmp_path):
    network = lively(Nested())
    for prefix in ("", "module."):
        torch.save(prefixed(prefix, network.state_dict()), tmp_path / "net.pt")
        other = Nested()
        load_into(other, tmp_path / "net.pt")
        assert all(value.equal(network.state_dict()[n]) for n, value in other.state_dict().items())


@pytest.mark.parametrize("name", ["net", "net.pth.tar", "net.t7", "net.ckpt", "net.safetensors"])
@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_the_content_decides_whatever_the_ending(name, how, network, tmp_path):
    if how == "safetensors":
        safetensors.torch.save_file(network.state_dict(), tmp_path / name)
    else:
        torch.save(
            network.state_dict(), tmp_path / name, _use_new_zipfile_serialization=how == "zip"
        )
    other = Digits(width=4)
    load_into(other, tmp_path / name)
    assert all(value.equal(network.state_dict()[n]) for n, value in other.state_dict().items())


def script(network, path):
    with torch.no_grad():
        torch.jit.trace(network, torch.zeros(2, 1, 8, 8)).save(path)
    torch.save(
        torch.jit.load(path).state_dict(), path.with_name("weights.pt")
    )  # as the remedy says


def program(network, path):
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 8, 8),)), path)
    torch.save(dict(torch.export.load(path).state_dict), path.with_name("weights.pt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason", "remedy"),
    [
        (script, "is a TorchScript archive", r"torch\.jit\.load\('net\.pt2?'\)\.state_dict"),
        (program, "is a program of torch.export", r"torch\.export\.load\('net\.pt2'\)\.state_dict"),
    ],
)
def test_programs_are_named_and_their_remedy_is_true(make, reason, remedy, network, tmp_path):
    make(network, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match=reason) as error:
        load_into(Digits(width=4), tmp_path / "net.pt2")
    assert re.search(remedy, error.value.remedy)
    other = Digits(width=4)
    load_into(other, tmp_path / "weights.pt")
    assert all(value.equal(network.state_dict()[n]) for n, value in other.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model_is_named_for_what_it_is(zipped, network, tmp_path):
    torch.save(network, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="is a whole model, pickled.*Save the state dict"):
        load_into(Digits(width=4), tmp_path / "net.pt")


def test_what_needs_code_is_named_by_the_class_that_it_needs(network, tmp_path):
    stored = {"state_dict": network.state_dict(), "when": datetime.datetime(2024, 1, 1)}
    torch.save(stored, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"needs code to be unpickled \(datetime\.datetime\)"):
        load_into(Digits(width=4), tmp_path / "net.pt")


OTHERS = {
    "is an ONNX model": (BUNDLE / "predict.onnx").read_bytes(),
    "is a TFLite model": b"\x1c\x00\x00\x00TFL3" + bytes(64),
    "is an HDF5 file, as Keras writes them": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "is a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "is a web page": b"\n<!DOCTYPE html><html>not found</html>",
    "is compressed by gzip": gzip.compress(b"weights"),
    "is an object of Lua Torch": struct.pack("<iii", 4, 1, 3) + b"V 1",
    "is an index of 2 shards": json.dumps(
        {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    ).encode(),
    "is JSON text": b'{"architectures": ["ResNet"]}',
    "is a folder": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["net.pt", "net", "net.safetensors"])
@pytest.mark.parametrize("reason", OTHERS)
def test_files_of_other_kinds_are_named(reason, name, tmp_path):
    path = tmp_path / name
    if OTHERS[reason] is None:
        path.mkdir()
    else:
        path.write_bytes(OTHERS[reason])
    with pytest.raises(CheckpointError, match=reason):
        load_into(Digits(width=4), path)


def test_archives_of_other_kinds_are_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("net.pt", b"")
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        archive.add(tmp_path / "net.zip", "net.zip")
    for name, reason in {
        "data.npz": "arrays of numpy",
        "model.keras": "is a Keras model",
        "net.zip": "a zip archive without a checkpoint",
        "net.tar": "is a tar archive",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            load_into(Digits(width=4), tmp_path / name)


def test_joining_shards_as_the_remedy_says_gives_a_checkpoint(network, tmp_path):
    items = list(network.state_dict().items())
    shards = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for shard, part in zip(shards, (items[:10], items[10:]), strict=True):
        safetensors.torch.save_file(dict(part), shard)
    state = {}
    for shard in shards:
        state.update(safetensors.torch.load_file(shard))
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert load_into(Digits(width=4), tmp_path / "model.safetensors").plain
