"""Networks with meta networks attached, and frames for them."""

import torch
from torch import nn

from edgemem.models import attach

SHAPE = (3, 8, 8)


def frames(count, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def convolution(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))


def lively(network, seed=0):
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def attached(network, parts=(), shape=SHAPE, **options):
    return attach(lively(network), parts, torch.zeros(2, *shape), **options)


@torch.no_grad()
def run(module, *arguments):
    return module(*arguments)
