"""Networks with lively statistics, and bundles that are exported once per session."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_network import Small
from torch import nn

from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices, Parity, bundle_writer, export_bundle, traced_graphs
from edgemem.models import AdaptiveModel, attach
from edgemem.models.networks import digits


@dataclass(frozen=True)
class Exported:
    """A bundle and what it was made from; protos: the traced graphs, before they were written."""

    path: Path
    model: AdaptiveModel
    network: nn.Module
    parity: Parity
    protos: dict


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lively():
    """network, seed -> the network with random weights and BN statistics, as if trained."""

    def make(network, seed=0):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.7, 1.3)
                    nn.init.normal_(module.bias, 0, 0.2)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def warmed():
    """adaptive model -> the same with random meta networks, as if warmed up."""

    def make(model, seed=1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.block().values():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for name, buffer in model.meta.named_buffers():
                if name.endswith("mean"):
                    buffer.normal_(0, 0.3)
                else:
                    buffer.uniform_(0.5, 2)
        model.mark_warm()
        return model

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """network, adaptive model, choices -> Exported."""

    def make(network, model, choices):
        protos = {}

        def record(function):
            name = "predict" if function.dynamic_batch else "adapt"
            traced = to_onnx(function)
            if name not in protos:  # the step is traced before what else has one batch size
                protos[name] = type(traced)()
                protos[name].CopyFrom(traced)
            return traced

        to_onnx = traced_graphs.to_onnx
        path = tmp_path_factory.mktemp("bundles") / "net.edgemem"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(traced_graphs, "to_onnx", record)
            parity = export_bundle(model, path, choices, source={"data": "none"})
        return Exported(path, model, network, parity, protos)

    return make


@pytest.fixture(scope="session")
def digits_full(lively, warmed, exported):
    network = lively(digits())
    model = warmed(attach(network, ["layer1", "layer2"], torch.zeros(2, 1, 8, 8)))
    return exported(
        network, model, Choices(batch=8, gradient="full", learn="all", objective="ecotta")
    )


@pytest.fixture(scope="session")
def digits_meta(lively, warmed, exported):
    network = lively(digits())
    model = warmed(attach(network, ["layer1", "layer2"], torch.zeros(2, 1, 8, 8)))
    labels = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    choices = Choices(8, "meta", "all", "ecotta", labels=labels, hyper_parameters={"momentum": 0.5})
    return exported(network, model, choices)


@pytest.fixture(scope="session")
def small_full(lively, warmed, exported):
    network = lively(Small())
    model = warmed(attach(network, ["layer1"], torch.zeros(2, 1, 8, 8)))
    return exported(network, model, Choices(8, "full", "all", "ecotta"))


@pytest.fixture
def instant(small_full, monkeypatch):
    """Tracing and measuring answer at once as for `small_full`: for tests of the rest."""
    plans = list(open_bundle(small_full.path).manifest.plans)

    def replay(function):
        name = "predict" if function.dynamic_batch else "adapt"
        copy = type(small_full.protos[name])()
        copy.CopyFrom(small_full.protos[name])
        return copy

    monkeypatch.setattr(traced_graphs, "to_onnx", replay)
    monkeypatch.setattr(bundle_writer, "measured_plans", lambda *_: plans)
    return small_full
