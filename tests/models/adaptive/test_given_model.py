"""The model that adapts is, at rest, the model that was given, whatever its norms do besides."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import Recipe, attach, load_adaptive, save_adaptive, warm_up
from edgemem.models.inspection.untouched import check_untouched
from edgemem.models.networks import digits

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
everywhere = pytest.mark.parametrize("name", NETWORKS)


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


def by_batch(network, x):
    """The same network with every norm in training mode and nothing else."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            module.training = True
    with torch.no_grad():
        return network(x)


@torch.no_grad()
def run(module, *arguments):
    return module(*arguments)


@everywhere
def test_at_rest_it_is_the_network(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert model.frozen_logits(x).equal(run(network, x))
    assert model.untouched_logits(x).equal(run(network, x))


# Torch refuses the training mode of a synchronised norm on a CPU.
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"synchronised"}))
def test_with_the_batchs_statistics_it_is_the_network_in_training(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    expected = by_batch(network, x)
    assert not expected.allclose(run(network, x), atol=1e-2)
    shares = torch.full((8,), 1 / 8)
    for arguments in ((torch.tensor(1.0),), (torch.tensor(1.0), None, shares)):
        found = run(model, x, *arguments).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@everywhere
def test_what_the_block_adds_to_a_pair_is_added_where_the_network_uses_it(name):
    """For the two-layer networks: the same numbers written into the network's own pairs."""
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    assert len(model.block()) == 4
    assert {value.shape for value in model.block().values()} == {(6,)}
    x = frames(8)
    generator = torch.Generator().manual_seed(1)
    block = {k: 0.3 * torch.randn(6, generator=generator) for k in model.block()}
    with torch.no_grad():
        found = model.with_block(block, x).logits
    if name in ("plain", "calls torch", "calls super", "hook", "synchronised"):
        other = copy.deepcopy(network)
        with torch.no_grad():
            for key, value in block.items():
                layer = other.first if "first" in key else other.second
                (layer.weight if "weight" in key else layer.bias).add_(value)
        torch.testing.assert_close(found, run(other, x), rtol=1e-5, atol=1e-5)
    assert not found.allclose(run(model, x).logits, atol=1e-3)


@everywhere
def test_the_key_is_that_of_the_first_norms_input(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE))
    x = frames(8)
    y = run(network.one, x)
    eps = 0.1 if name == "positional" else 1e-5
    var = network.first.running_var + eps
    shift = (y.mean((0, 2, 3)) - network.first.running_mean) / var.sqrt()
    scale = 0.5 * ((y.var((0, 2, 3), unbiased=False) + eps) / var).log()
    torch.testing.assert_close(run(model, x).key, torch.cat([shift, scale]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "calls torch", "arrays of its own"])
def test_a_checkpoint_brings_the_weights_to_all_of_it(name, tmp_path):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    model.source_frames = (255 * frames(5)).byte()
    save_adaptive(model, tmp_path / "net.safetensors", {})
    again, _ = load_adaptive(tmp_path / "net.safetensors", NETWORKS[name]())
    x = frames(8)
    assert again.untouched_logits(x).equal(run(network, x))
    assert run(again, x, torch.tensor(0.5)).logits.equal(run(model, x, torch.tensor(0.5)).logits)
    assert again.source_frames.equal(model.source_frames)


@pytest.mark.parametrize("name", ["plain", "calls super"])
def test_a_deep_copy_has_an_untouched_model_of_its_own(name):
    network = build(name)
    model = attach(network, [], torch.zeros(2, *SHAPE), norm_affine=True)
    x = frames(8)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.add_(1)
        for parameter in twin.untouched.parameters():
            parameter.mul_(1.5)
    assert model.untouched_logits(x).equal(run(network, x))
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)
    assert not twin.untouched_logits(x).allclose(run(network, x), atol=1e-2)


def test_the_untouched_model_takes_no_memory_of_its_own():
    model = attach(build("plain"), [], torch.zeros(2, *SHAPE))
    own = {value.data_ptr() for value in model.state_dict().values()}
    kept = [v for n, v in model.untouched.state_dict().items() if "num_batches" not in n]
    assert {value.data_ptr() for value in kept} <= own
    assert not any("untouched" in name for name in model.state_dict())


def test_in_training_mode_the_frozen_model_stays_itself():
    network = build("calls torch")
    model = attach(network, [], torch.zeros(2, *SHAPE)).train()
    x = frames(8)
    torch.testing.assert_close(run(model, x).logits, run(network, x), rtol=1e-5, atol=1e-5)


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
