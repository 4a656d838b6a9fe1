"""Alignment in the subspace of source features, against scikit-learn and torch's distributions."""

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Normal, kl_divergence

from edgemem.bundle.opening import open_bundle
from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.export.functions.subspace import LEAST_SHARE, subspace_of_source
from edgemem.models import attach, observe_source

FRAMES, SIZE, HIDDEN = 96, 6, 8


class Regressor(nn.Module):
    def __init__(self, numbers=2, rank=HIDDEN):
        super().__init__()
        torch.manual_seed(0)
        first = nn.Linear(SIZE, HIDDEN)
        with torch.no_grad():
            first.weight[rank:], first.bias[rank:] = 0.0, 0.0
        self.body = nn.Sequential(first, nn.BatchNorm1d(HIDDEN))
        self.last = nn.Linear(HIDDEN, numbers)
        self.body[1].running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        return self.last(self.body(x))


class Scaled(Regressor):
    """Whose answer no linear layer makes."""

    def forward(self, x):
        return torch.cat([self.last(self.body(x)), x[:, :1]], 1)


def rows(count=FRAMES, seed=0):
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def adaptive(network, frames=None, task="regression"):
    x = torch.from_numpy(rows(4))
    model = attach(network, [], x, statistics="remembered", norm_affine=True, task=task)
    if frames is not None:
        observe_source(model, frames)
    return model


def features(network, x):
    with torch.no_grad():
        return network.eval().body(torch.from_numpy(x)).numpy()


def test_directions_are_those_of_scikit_learn_and_count_by_what_they_move():
    network = Regressor()
    found = subspace_of_source(adaptive(network, rows()))
    oracle = PCA(SIZE).fit(features(network, rows()))  # more hidden numbers follow from as many
    np.testing.assert_allclose(found.mean, oracle.mean_, atol=1e-5)
    np.testing.assert_allclose(found.var.flip(0), oracle.explained_variance_, rtol=1e-4)
    alike = np.abs(found.basis.T.flip(0).numpy() @ oracle.components_.T)
    np.testing.assert_allclose(alike, np.eye(SIZE), atol=1e-3)
    moved = oracle.components_ @ network.last.weight.detach().numpy().T
    expected = 1 + np.sqrt((moved**2).sum(1))
    np.testing.assert_allclose(found.weights.flip(0), expected, rtol=1e-3)


@pytest.mark.parametrize("rank", [1, 3])
def test_directions_without_variance_are_left_out(rank):
    found = subspace_of_source(adaptive(Regressor(rank=rank), rows()))
    assert found.basis.shape == (HIDDEN, rank)
    assert found.var.min() > LEAST_SHARE * found.var.max()


def test_the_distance_is_the_weighed_divergence_both_ways():
    network = Regressor()
    found = subspace_of_source(adaptive(network, rows()))
    x = torch.from_numpy(features(network, 1.5 * rows(16, 1) + 0.3))
    along = (x - found.mean) @ found.basis
    source = Normal(torch.zeros_like(found.var), found.var.sqrt())
    target = Normal(along.mean(0), along.std(0))
    both = kl_divergence(source, target) + kl_divergence(target, source)
    expected = (found.weights * both).sum()
    torch.testing.assert_close(found.distance(x), expected, rtol=1e-4, atol=0)
    assert found.distance(x) > found.distance(torch.from_numpy(features(network, rows(16, 1))))


def test_features_that_are_all_the_same_have_a_finite_distance():
    found = subspace_of_source(adaptive(Regressor(), rows()))
    x = torch.ones(16, HIDDEN, requires_grad=True)
    (slope,) = torch.autograd.grad(found.distance(x), x)
    assert found.distance(x).isfinite() and slope.isfinite().all()


def export(model, path, **choices):
    export_bundle(model, path, Choices(batch=4, objective="subspace_alignment", **choices))


@pytest.mark.parametrize(
    ("network", "frames", "reason"),
    [
        (Scaled(), rows(), "needs a linear layer that makes the one output.*alignment"),
        (Regressor(), None, "needs source frames.*--source"),
        (Regressor(), np.ones((FRAMES, SIZE), np.float32), "same features.*that differ"),
    ],
    ids=["no layer", "no source", "all the same"],
)
def test_what_has_no_subspace_is_refused(network, frames, reason, tmp_path):
    with pytest.raises(ExportError, match=f"subspace_alignment.*{reason}"):
        export(adaptive(network, frames), tmp_path / "net.edgemem")
    assert not any(tmp_path.iterdir())


def test_classes_have_objectives_of_their_own(tmp_path):
    model = adaptive(Regressor(3), rows(), "classes")
    with pytest.raises(ExportError, match="is for numbers, and the task is classes"):
        export(model, tmp_path / "net.edgemem")


@pytest.mark.slow
def test_an_exported_step_brings_features_back(tmp_path):
    path = tmp_path / "net.edgemem"
    model = adaptive(Regressor(), rows())
    export(model, path, learning_rate=1e-3)
    session = onnxruntime.InferenceSession(str(path / "adapt.onnx"))
    names = [output.name for output in session.get_outputs()]
    values = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    values |= {f"block.{name}": array for name, array in open_bundle(path).generic.items()}
    defaults = {"alpha": 0.0, "learning_rate": 1e-3, "memory_rate": 1.0}
    values |= {f"hp.{name}": np.asarray(value, np.float32) for name, value in defaults.items()}
    values["x"] = 1.5 * rows(4, 1) + 0.3
    losses = []
    for _ in range(20):
        found = dict(zip(names, session.run(None, values), strict=True))
        losses.append(float(found["stat.distance"]))
        values |= {
            name.removeprefix("next."): array
            for name, array in found.items()
            if name.startswith("next.")
        }
    x = torch.from_numpy(features(Regressor(), values["x"]))
    own = subspace_of_source(model).distance(x)
    assert losses[0] == pytest.approx(own.item(), rel=1e-3)
    assert losses[-1] < 0.8 * losses[0]
