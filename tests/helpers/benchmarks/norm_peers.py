"""Small models for peers, and what became of their weights."""

import copy

import torch
from torch import nn

from benchmarks.adaptation.peers import entropy, forward_only, roid, sar, statistics
from benchmarks.adaptation.peers.base import Source, batch_norms

CLASSES = 5
PEERS = {
    **statistics.PEERS,
    **entropy.PEERS,
    **sar.PEERS,
    **roid.PEERS,
    **forward_only.PEERS,
}


def image_model(scale=8.0):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    return settled(model, images(64, seed=9), scale)


def settled(model, frames, scale):
    """Running statistics from some frames, and logits far apart."""
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(frames)
        model[-1].weight.mul_(scale)
    return model.eval()


def images(count, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=random) * torch.rand(
        count, 3, 1, 1, generator=random
    )


def noisy(frames):
    return frames + 0.05 * torch.randn_like(frames)


def source_of(frames):
    return Source(frames, torch.zeros(len(frames), dtype=torch.int64), CLASSES, noisy)


def weights_of(model):
    return torch.cat([norm.weight.detach().clone() for norm in batch_norms(model)])


def distance(method, model):
    return (weights_of(method.model) - weights_of(model)).norm().item()


def state_of(model):
    return copy.deepcopy(model.state_dict())


def same(first, second):
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def made(name, model, source):
    torch.manual_seed(3)
    peer = PEERS[name]
    return peer.make(model, source, peer.learning_rate)
