"""Networks as people give them: norms subclassed, hooked, parametrized or called by hand."""

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions, each with a norm; `after` is what follows both."""

    def __init__(self, norm=nn.BatchNorm2d, after=nn.ReLU):
        super().__init__()
        self.one, self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False), norm(6)
        self.two, self.second = nn.Conv2d(6, 6, 3, padding=1), norm(6)
        self.after, self.classifier = after(), nn.Linear(6, 4)

    def forward(self, x):
        x = self.after(self.first(self.one(x)))
        return self.classifier(self.after(self.second(self.two(x))).mean((2, 3)))


class CallsTorch(nn.BatchNorm2d):
    """An activation after a functional batch norm, as in timm."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(), nn.SiLU()

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        x = F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.0, self.eps)
        return self.act(self.drop(x))


class CallsSuper(nn.BatchNorm2d):
    """Swish by its own input."""

    def forward(self, x):
        return super().forward(x) * torch.sigmoid(x)


class Positional(nn.BatchNorm2d):
    """The function below torch's, arguments by place, another eps, and no affine pair."""

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        return torch.batch_norm(x, None, None, mean, var, self.training, 0.0, 0.1, False).relu()


class Owned(nn.Module):
    """No norm by class: arrays of its own and a functional batch norm."""

    def __init__(self, channels):
        super().__init__()
        for name, fill in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), fill))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, training=self.training)


def hooked():
    network = Net()
    network.first.register_forward_hook(lambda _, __, output: 2 * output)
    return network


def parametrized():
    network = Net()
    nn.utils.parametrize.register_parametrization(network.first, "weight", nn.Softplus())
    nn.utils.parametrizations.weight_norm(network.two)
    return network


def counting():
    """A norm whose statistics the model reads besides calling it."""

    class Reads(Net):
        def forward(self, x):
            level = self.first.running_mean.mean() + self.first.running_var.mean()
            return super().forward(x) + level * self.first.num_features

    return Reads()


NETWORKS = {
    "plain": Net,
    "calls torch": lambda: Net(CallsTorch, nn.Identity),
    "calls super": lambda: Net(CallsSuper),
    "positional": lambda: Net(Positional),
    "arrays of its own": lambda: Net(Owned),
    "hook": hooked,
    "parametrized": parametrized,
    "reads": counting,
    "synchronised": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(Net()),
}


def build(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    for key, parameter in network.named_parameters():
        if "first" in key or "second" in key:
            nn.init.uniform_(parameter, 0.2, 1.3)
    return network.eval()


def frames(count, seed=0, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
