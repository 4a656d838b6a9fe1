"""Checkpoints as training leaves them: what is taken out of them, and that this is said."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemem.models import load_into
from edgemem.models.networks.digits import Digits


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
