"""What is no checkpoint is named for what it is, with a remedy that works."""

import datetime
import gzip
import json
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from edgemem.demo import BUNDLE
from edgemem.errors import CheckpointError
from edgemem.models import load_into
from edgemem.models.networks.digits import Digits


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
