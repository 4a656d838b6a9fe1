"""Norms that see several rows of every frame, in whatever order."""

import copy

import pytest
import torch
from attached_networks import attached, convolution, frames, run
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import observe_source
from edgemem.models.norms.moments import frame_moments


class Clips(nn.Module):
    """Several images are one frame; the norms see all of them as rows."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.images, self.flat = convolution(3, 6), nn.BatchNorm1d(6)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x):
        x = x if self.order == "frames" else x.transpose(0, 1)
        counts = x.shape[:2]
        y = self.flat(self.images(x.flatten(0, 1)).relu().mean((2, 3))).relu().view(*counts, 6)
        return self.classifier(y.mean(1 if self.order == "frames" else 0))


CLIP = (5, 3, 8, 8)


@pytest.mark.parametrize("statistics", ["mix", "remembered"])
def test_a_norm_may_see_several_rows_of_every_frame(statistics):
    network = Clips("frames")
    model = attached(network, shape=CLIP, statistics=statistics)
    x = frames(7, CLIP)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    training = copy.deepcopy(network).train()
    one = torch.tensor(1.0)
    weight = None if statistics == "mix" else one
    shares = torch.full((7,), 1 / 7)
    for given in (None, shares):
        output = run(model, x, one, weight, given)
        torch.testing.assert_close(output.logits, run(training, x), rtol=1e-4, atol=1e-4)
    assert {len(moments.mean) for _, moments in output.seen.values()} <= {7}
    assert len(output.seen) == (0 if statistics == "mix" else 2)


def test_shares_and_moments_of_frames_of_several_rows_are_by_frame():
    """Frames that only fill up weigh nothing, and what is observed is by frame."""
    network = Clips("frames")
    model = attached(network, shape=CLIP)
    x = frames(6, CLIP)
    x[4:] = 100.0
    shares = torch.tensor([0.25] * 4 + [0.0] * 2)
    one = torch.tensor(1.0)
    some, few = run(model, x, one, None, shares), run(model, x[:4], one)
    torch.testing.assert_close(some.logits[:4], few.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(some.key, few.key, rtol=1e-4, atol=1e-5)
    observe_source(model, x.numpy())
    seen = run(network.images[0], x.flatten(0, 1))
    each = frame_moments(seen, network.images[1].running_mean)
    expected = torch.stack([each.mean, each.square], 1).view(6, 5, 2, 6).mean(1)
    torch.testing.assert_close(model.source_moments, expected, rtol=1e-4, atol=1e-4)


def test_rows_in_another_order_than_frames_are_refused_unless_no_batch_is_asked():
    with pytest.raises(AttachError, match="'images.1'.*one frame after another") as caught:
        attached(Clips("images"), shape=CLIP)
    assert caught.value.remedy == "Use statistics source"
    network = Clips("images")
    model = attached(network, shape=CLIP, statistics="source", norm_affine=True)
    x = frames(6, CLIP)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert model.key_norm is None
    observe_source(model, x.numpy())
    assert model.source_moments is None


def test_norms_of_vectors_have_moments_of_frames():
    network = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model = attached(network, shape=(9,), statistics="remembered")
    x, one = frames(12, (9,)), torch.tensor(1.0)
    training = copy.deepcopy(network).train()
    for shares in (None, torch.full((12,), 1 / 12)):
        output = run(model, x, one, one, shares)
        torch.testing.assert_close(output.logits, run(training, x), rtol=1e-4, atol=1e-4)
    ((_, moments),) = output.seen.values()
    distance = run(network[0], x) - network[1].running_mean
    torch.testing.assert_close(moments.mean, distance, rtol=1e-4, atol=1e-5)
