"""A model that was changed, or cannot be copied, is told by name."""

import pytest
import torch
import torch.nn.functional as F
from given_models import SHAPE, Net, build, frames
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.inspection.untouched import LIMIT, MOST_ROUNDING, check_untouched, distance
from edgemem.models.networks import digits
from edgemem.models.norms.frozen_norm import FrozenNorm


class Suspicious(nn.Module):
    """Does something else where its norm is not torch's."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(x) if type(self.norm) is nn.BatchNorm2d else 0.5 * x


def test_a_difference_names_the_first_module_that_differs():
    network = Net()
    network.second = Suspicious()
    with pytest.raises(AttachError, match="is not that of the model that was given") as caught:
        attach(network.eval(), [], torch.zeros(2, *SHAPE))
    assert caught.value.thing == "module 'second'"
    assert "the answers by" in caught.value.reason


def test_a_model_that_was_changed_after_all_is_told_by_its_first_module():
    model = attach(build("plain"), [], torch.zeros(2, *SHAPE))
    check_untouched(model, frames(20))
    model.frozen.two.forward = lambda x: F.conv2d(x, model.frozen.two.weight, padding=1)
    with pytest.raises(AttachError, match="module 'two'"):
        check_untouched(model, frames(20))


def test_a_model_that_reads_what_is_no_more_is_refused():
    class Reads(Net):
        def forward(self, x):
            return super().forward(x) * self.first.momentum

    with pytest.raises(AttachError, match="fails where its BatchNorm layers stand replaced"):
        attach(Reads().eval(), [], torch.zeros(2, *SHAPE))


def test_a_model_that_cannot_be_copied_is_refused():
    network = Net()
    network.extra = network.one.weight * 2
    with pytest.raises(AttachError, match="cannot be copied"):
        attach(network.eval(), [], torch.zeros(2, *SHAPE))


def test_warm_up_compares_with_the_network_on_frames_of_its_source(lively, monkeypatch):
    model = attach(lively(digits()), ["layer1"], torch.zeros(2, 1, 8, 8))
    x = (255 * frames(64, shape=(1, 8, 8))).byte().numpy()
    y = torch.arange(64).numpy() % 10
    warm_up(model, x, y, Recipe(epochs=1, batch_size=16))
    assert model.source_frames.dtype == torch.uint8
    kept = {frame.tobytes() for frame in model.source_frames.numpy()}
    assert kept == {frame.tobytes() for frame in x}
    monkeypatch.setattr(model.frozen.layer2, "forward", lambda x: x.repeat(1, 2, 1, 1))
    steps = []
    with pytest.raises(AttachError, match="module 'layer2'"):
        warm_up(model, x, y, Recipe(epochs=1, batch_size=16), report=steps.append)
    assert not steps  # before hours of training


class Amplifying(nn.Module):
    """A norm, whose answer is then read three thousand times as finely."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = self.norm(x)
        return self.head(torch.sin(3e3 * y))


def test_a_network_that_rounds_much_is_told_from_another_one():
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    model = attach(Amplifying().eval(), [], x[:2], statistics="remembered")
    with torch.no_grad():
        given = model.untouched_outputs(x)["logits"]
        zero = {name: torch.zeros_like(value) for name, value in model.block().items()}
        off = distance(model.with_block(zero, x).logits, given)
    assert LIMIT < off < MOST_ROUNDING  # or this test would show nothing
    check_untouched(model, x)
    norm = next(m for m in model.modules() if isinstance(m, FrozenNorm))
    norm.bias = norm.bias + 1e-6  # an array of its own: the given layer's stays
    with pytest.raises(AttachError, match="is not that of the model that was given"):
        check_untouched(model, x)
