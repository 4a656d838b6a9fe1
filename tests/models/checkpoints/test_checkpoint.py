"""Checkpoints: others' read safely, ours read back exactly."""

import copy
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemem.errors import CheckpointError
from edgemem.models import load_into
from edgemem.models.checkpoints.checkpoint import read_checkpoint
from edgemem.models.networks import resnet20
from edgemem.models.networks.digits import Digits

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
