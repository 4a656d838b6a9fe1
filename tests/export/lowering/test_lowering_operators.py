"""Which operators a traced step may hold."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from edgemem.errors import ExportError
from edgemem.export.lowering.table import check_operators, decompositions

RANDOM = {
    "rand": lambda x: x + torch.rand(4, 4),
    "randn": lambda x: x + torch.randn(4, 4),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint": lambda x: x + torch.randint(0, 3, (4, 4)),
    "randint_like": lambda x: torch.randint_like(x, 3),
    "randperm": lambda x: x[torch.randperm(4)],
    "bernoulli": lambda x: torch.bernoulli(x.abs()),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "multinomial": lambda x: torch.multinomial(x.abs(), 2),
    "normal": lambda x: torch.normal(x, 1.0),
    "uniform in place": lambda x: x.clone().uniform_(),
    "normal in place": lambda x: x.clone().normal_(),
    "gumbel": lambda x: F.gumbel_softmax(x, tau=0.5),
}
WITHOUT_RULE = {
    "grid sampling": lambda x: F.grid_sample(
        x[None, None], torch.zeros(1, 2, 2, 2), align_corners=False
    ),
    "distances": lambda x: torch.cdist(x, x + 1),
}


def trace(function):
    return make_fx(
        function,
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
        decomposition_table=decompositions(),
    )(torch.rand(4, 4))


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_are_refused(name):
    with pytest.raises(ExportError, match="draws random numbers"):
        check_operators(trace(RANDOM[name]))


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_backward_operators_without_a_rule_are_refused(name):
    gradient = torch.func.grad(lambda x: WITHOUT_RULE[name](x).pow(2).sum())
    with pytest.raises(ExportError, match=r"aten\.\w*_backward.*no backward rule"):
        check_operators(trace(gradient))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, training=False) * 2,
        torch.func.grad(lambda x: F.max_pool2d(x[None, None], 2).pow(2).sum()),
        torch.func.grad(lambda x: F.avg_pool2d(x[None, None], 2).pow(2).sum()),
        torch.func.grad(lambda x: F.adaptive_avg_pool2d(x[None, None], 1).pow(2).sum()),
        torch.func.grad(lambda x: F.layer_norm(F.gelu(x), (4,)).pow(2).sum()),
        torch.func.grad(lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.long))),
        torch.func.grad(lambda x: F.hardswish(x).sum() + F.relu6(x).pow(2).sum()),
    ],
    ids=["dropout at rest", "max", "average", "mean", "layer norm", "cross-entropy", "activations"],
)
def test_usual_layers_and_their_gradients_pass(function):
    check_operators(trace(function))
