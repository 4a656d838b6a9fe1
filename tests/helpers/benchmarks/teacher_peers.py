"""A small network for peers with a teacher, and frames for it."""

import torch
from torch import nn

from benchmarks.adaptation.peers import cotta, ecotta, petta, reservoir_tta, rotta
from benchmarks.adaptation.peers.base import Source
from benchmarks.shared import views

CLASSES = 4
PARTS = ("layers[0:3]", "layers[3:6]")
PEERS = {**cotta.PEERS, **rotta.PEERS, **petta.PEERS, **reservoir_tta.PEERS}


class Net(nn.Module):
    """Two convolutions for images or sounds."""

    def __init__(self, kind):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if kind == "image" else (nn.Conv1d, nn.BatchNorm1d)
        channels = 3 if kind == "image" else 1
        self.layers = nn.Sequential(
            *(conv(channels, 6, 3, 1, 1), norm(6), nn.ReLU()),
            *(conv(6, 8, 3, 2, 1), norm(8), nn.ReLU()),
        )
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.linear(self.layers(x).flatten(2).mean(2))


def frames_of(kind, n, seed=0):
    shape = (n, 3, 8, 8) if kind == "image" else (n, 1, 64)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def settled(kind="image"):
    """A model with running statistics and decided logits, and its source."""
    torch.manual_seed(0)
    model, frames = Net(kind), frames_of(kind, 200, seed=9)
    with torch.no_grad():
        for _ in range(20):
            model.train()(frames)
        model.linear.weight.mul_(10)
        model.linear.bias.sub_(model.eval()(frames).mean(0))
    view = views.image_view if kind == "image" else views.sound_view
    return model.eval(), Source(frames, torch.arange(200) % CLASSES, CLASSES, view)


def made(name, kind="image"):
    model, source = settled(kind)
    if name == "EcoTTA":
        return ecotta.make_ecotta(model, source, 5e-3, PARTS)
    return PEERS[name].make(model, source, PEERS[name].learning_rate)
