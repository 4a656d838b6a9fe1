"""Networks with lively statistics, and adaptive models as if they had been warmed up."""

import pytest
import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


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
            if isinstance(module, CONVOLUTIONS):
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
    """adaptive model -> the same with random arrays and source moments, as if warmed up."""

    def make(model, seed=1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.block().values():
                parameter.add_(0.2 * torch.randn_like(parameter))
            for name, buffer in model.meta.named_buffers():
                if name.endswith("mean"):
                    buffer.normal_(0, 0.3)
                else:
                    buffer.uniform_(0.5, 2)
        model.mark_warm()
        return model

    return make
