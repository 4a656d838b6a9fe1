"""Where moments can be aligned in a network, and where not."""

import torch
from torch import nn

from edgemem.models.sites.candidates import candidates


class Net(nn.Module):
    """A gate, a layer that runs twice, one that mixes frames' rows, norms of all kinds."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.group = nn.GroupNorm(2, 8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.LayerNorm(8)
        self.unused = nn.Linear(8, 8)
        self.hidden = nn.Linear(8, 16)
        self.classifier = nn.Linear(16, 4)

    def forward(self, x):
        x = self.group(self.stem(x)).relu()
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.twice(self.twice(x))
        tokens = self.last(x.flatten(2).transpose(1, 2))
        return self.classifier(self.hidden(tokens).relu().mean(1))


def found_in(network, shape):
    torch.manual_seed(0)
    return {c.name: c for c in candidates(network.eval(), network, torch.rand(3, *shape))}


def test_layers_that_run_once_frame_by_frame_are_candidates_in_order_of_their_run():
    found = found_in(Net(), (3, 8, 8))
    assert list(found) == ["stem", "group", "last", "hidden"]
    assert [c.kind for c in found.values()] == ["convolution", "norm", "norm", "linear"]
    assert [c.axis for c in found.values()] == [1, 1, -1, -1]
    assert [c.positions for c in found.values()] == [36, 36, 36, 36]


def test_windows_are_rows_of_their_frame():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.classifier = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):  # [n, 8, 4] -> two windows of a frame
            y = self.inner(x.reshape(-1, 4, 4))
            return self.classifier(y.reshape(len(x), 8, 6).mean(1))

    assert found_in(Windows(), (8, 4))["inner"].rows == 2


def test_rows_in_another_order_than_frames_are_no_candidates():
    class Time(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.classifier = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):  # time first, as some recurrent networks have it
            return self.classifier(self.inner(x.transpose(0, 1)).mean(0))

    assert found_in(Time(), (8, 4)) == {}


def test_where_all_layers_give_vectors_these_are_candidates():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    assert list(found_in(network, (6,))) == ["0", "2"]
