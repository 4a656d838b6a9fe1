"""Where moments can be aligned in a network, and where not."""

import torch
from torch import nn

from edgemem.models import attach, measure_source
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
    return {
        c.name: c for c in candidates(network.eval(), lambda x: [network(x)], torch.rand(3, *shape))
    }


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


class Recurrent(nn.Module):
    def __init__(self, last_state):
        super().__init__()
        self.inner, self.classifier = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
        self.last_state = last_state

    def forward(self, x):
        outputs, (state, _) = self.inner(x)
        return self.classifier(state[-1] if self.last_state else outputs.mean(1))


def test_outputs_of_a_recurrent_layer_are_a_candidate_where_the_answer_reads_them():
    found = found_in(Recurrent(last_state=False), (8, 4))
    assert found["inner"].axis == -1 and found["inner"].kind == "recurrent layer"
    assert found_in(Recurrent(last_state=True), (8, 4)) == {}


def test_a_recurrent_layer_is_aligned_as_torch_would():
    torch.manual_seed(0)
    network, x = Recurrent(last_state=False).eval(), torch.rand(64, 8, 4)
    model = attach(network, [], x[:4], statistics="batch", sites=["inner"])
    measure_source(model, x.numpy())
    shifted = 0.5 * x + 0.3
    with torch.no_grad():
        given, moved = network.inner(x)[0], network.inner(shifted)[0]
        scale = (given.var((0, 1), correction=0) / moved.var((0, 1), correction=0)).sqrt()
        expected = (moved - moved.mean((0, 1))) * scale + given.mean((0, 1))
        found = model(shifted, alpha=torch.tensor(1.0)).logits
    torch.testing.assert_close(found, network.classifier(expected.mean(1)), rtol=1e-3, atol=1e-3)
