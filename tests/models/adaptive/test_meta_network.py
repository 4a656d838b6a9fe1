"""The meta network and its statistics, against the formulas they implement."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgemem.models import Form, attach
from edgemem.models.adaptive.meta_network import EPS, MetaNetwork
from edgemem.models.norms.frozen_norm import FrozenNorm
from edgemem.models.norms.statistics import PassSettings

SHAPES = {
    "vectors": (5, 4),
    "1-D": (5, 4, 9),
    "2-D": (3, 4, 6, 5),
    "3-D": (3, 4, 2, 5, 3),
}
LAYERS = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}
ALPHAS = [None, 0.0, 0.3, 1.0]
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def count(form, channels=(1024, 2048)):
    meta = MetaNetwork(channels, (2, 2), 4, form, PassSettings())
    return sum(p.numel() for p in meta.convolution.parameters())


def test_light_forms_cost_a_fraction_of_a_dense_convolution_on_wide_layers():
    dense = count(Form())
    assert dense == 1024 * 2048 * 9 == 18_874_368
    assert count(Form(groups=8)) == dense / 8
    assert count(Form(groups=0)) == 1024 * 9 + 1024 * 2048 < 0.12 * dense
    assert count(Form(bottleneck=16)) == 128 * (1024 + 128 * 9 + 2048) < 0.03 * dense
    assert count(Form(bottleneck=16, groups=0)) == 128 * (1024 + 9 + 2048) < 0.025 * dense
    assert count(Form(bottleneck=4096)) == 1024 + 9 + 2048  # never narrower than one channel
    assert count(Form(kernel_size=1)) == dense / 9


class Part(nn.Module):
    """A part that changes channels and size in some way, and a classifier after it."""

    def __init__(self, conv, norm, stride, kernel):
        super().__init__()
        padding = [k // 2 for k in kernel]
        self.stem = norm(4)
        self.part = conv(4, 8, kernel, stride, padding)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        return self.classifier(self.part(self.stem(x)).flatten(2).mean(2))


@quick
@given(
    st.lists(st.tuples(st.integers(5, 14), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from(
        [Form(1), Form(3), Form(5), Form(3, 4), Form(3, 0, 4), Form(3, 2, 0), Form(5, 0, 0)]
    ),
    st.sampled_from([1, 3, 5]),
)
def test_a_strided_part_of_any_size_gets_a_meta_network_that_fits(axes, form, kernel):
    sizes, strides = zip(*axes, strict=True)
    conv, norm = LAYERS[len(axes)]
    network = Part(conv, norm, strides, [kernel] * len(axes))
    model = attach(network, ["part"], torch.zeros(2, 4, *sizes), form=form)
    with torch.no_grad():
        for parameter in model.block().values():
            parameter.normal_()
        output = model(torch.randn(3, 4, *sizes), torch.tensor(0.5))
    assert output.logits.shape == (3, 3)
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("form", [Form(), Form(5, 4), Form(3, 0, 4), Form(3, 2, 0)], ids=str)
def test_a_part_of_vectors_gets_a_meta_network(form):
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.Linear(8, 3))
    model = attach(network, ["1"], torch.zeros(2, 4), form=form)
    with torch.no_grad():
        for parameter in model.block().values():
            parameter.normal_()
    x = torch.randn(6, 4)
    found = model(x, torch.tensor(0.5)).logits
    assert found.shape == (6, 3)
    assert found.isfinite().all()
    assert not torch.allclose(found, network.eval()(x))


def normalised(x, mean, var, alpha):
    """(x - mean) / deviation with mixed moments, written out."""
    dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    if alpha is not None:
        mean = (1 - alpha) * mean + alpha * x.mean(dims)
        var = (1 - alpha) * var + alpha * x.var(dims, unbiased=False)
    return (x - mean.view(shape)) / (var.view(shape) + EPS).sqrt()


def per_channel(value, x):
    return value.view([1, -1, *[1] * (x.dim() - 2)])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_computes_equation_two_relative_to_the_source_moments(shape, alpha):
    """u = BN(x) + ReLU(BN'(Conv(u_in))), where BN returns to the source moments of x."""
    torch.manual_seed(0)
    shared = PassSettings()
    shared.alpha = None if alpha is None else torch.tensor(alpha)
    meta = MetaNetwork((6, 4), (1,) * (len(shape) - 2), len(shape), Form(), shared)
    out, branch = meta.output_norm, meta.branch_norm
    with torch.no_grad():
        for parameter in meta.parameters():
            parameter.normal_(0, 0.5)
        for norm in (out, branch):
            norm.mean.normal_()
            norm.var.uniform_(0.5, 2)
    out.known = True
    u_in, x = torch.randn(shape[0], 6, *shape[2:]), torch.randn(shape)
    y = normalised(x, out.mean, out.var, alpha)
    y = y * per_channel(1 + out.scale_delta, x) + per_channel(out.shift, x)
    aligned = y * per_channel((out.var + EPS).sqrt(), x) + per_channel(out.mean, x)
    (kernel,) = meta.convolution.parameters()
    if len(shape) == 2:
        z = u_in @ kernel.squeeze(2).T
    else:
        z = [F.conv1d, F.conv2d, F.conv3d][len(shape) - 3](u_in, kernel, padding=1)
    z = normalised(z, branch.mean, branch.var, alpha)
    z = (z * per_channel(branch.weight, x) + per_channel(branch.bias, x)).relu()
    torch.testing.assert_close(meta(u_in, x), aligned + z, rtol=1e-4, atol=1e-5)


def test_without_known_source_moments_it_is_an_affine_map_around_the_identity():
    shared = PassSettings()
    shared.alpha = torch.tensor(1.0)
    meta = MetaNetwork((4, 4), (1, 1), 4, Form(), shared)
    x = torch.randn(3, 4, 5, 5)
    assert meta(torch.randn(3, 4, 5, 5), x).equal(x)
    with torch.no_grad():
        meta.output_norm.scale_delta.fill_(0.5)
        meta.output_norm.shift.fill_(2.0)
    torch.testing.assert_close(meta(torch.randn(3, 4, 5, 5), x), 1.5 * x + 2)


def test_leaving_the_branch_out_is_undone_even_after_an_error():
    meta = MetaNetwork((4, 4), (1, 1), 4, Form(), PassSettings())
    names = list(dict(meta.named_parameters()))
    with pytest.raises(RuntimeError), meta.without_branch():
        assert [n for n, _ in meta.named_parameters()] == [
            "output_norm.scale_delta",
            "output_norm.shift",
        ]
        raise RuntimeError
    assert list(dict(meta.named_parameters())) == names


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_frozen_norm_mixes_source_and_batch_in_one_formula(rank, affine):
    torch.manual_seed(1)
    norm = LAYERS[max(rank, 1)][1](4, affine=affine, eps=EPS).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(8, 4, *[5] * rank) * 2 + 1
    shared = PassSettings()
    frozen = FrozenNorm(norm, shared)
    for alpha in ALPHAS:
        shared.alpha = None if alpha is None else torch.tensor(alpha)
        expected = normalised(x, norm.running_mean, norm.running_var, alpha)
        if affine:
            expected = expected * per_channel(norm.weight, x) + per_channel(norm.bias, x)
        torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-5)
    shared.plain = True
    assert frozen(x).equal(norm(x))


def test_a_constant_channel_gives_finite_outputs_and_gradients():
    """A dead channel has no variance; with batch statistics alone only eps is left."""
    shared = PassSettings()
    shared.alpha = torch.tensor(1.0)
    norm = nn.BatchNorm2d(2).eval()
    norm.running_var.fill_(300.0)
    frozen = FrozenNorm(norm, shared)
    frozen.make_trainable()
    x = torch.full((4, 2, 3, 3), 7.0, requires_grad=True)
    y = frozen(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert frozen.weight_delta.grad.isfinite().all()
