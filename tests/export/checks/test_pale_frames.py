"""What remembered statistics gain on pale frames with skewed labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices
from edgemem.models import attach
from edgemem.models.networks.digits import Digits

pytestmark = pytest.mark.slow
CLASSES = 10


@pytest.fixture(scope="module")
def pictures():
    """Digits [1797, 1, 8, 8] in [0, 1] and labels, shuffled."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order, None] / 16).astype(np.float32), data.target[order]


@pytest.fixture(scope="module")
def trained(pictures, exported):
    """Bundles of a network that knows clean digits, by the statistics they use."""
    torch.manual_seed(0)
    x, y = (torch.from_numpy(values[:1000]) for values in pictures)
    network = Digits(width=16)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(10):
        for index in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()
            optimizer.step()
    network.eval()
    bundles = {}
    for statistics in ("mix", "remembered"):
        model = attach(network, ["layer1", "layer2"], x[:2], statistics=statistics)
        bundles[statistics] = exported(network, model, Choices(16, "meta", "all", "ecotta")).path
    return bundles


def skewed_and_dimmed(pictures, seed):
    """Frames that the network was not trained on, paler; labels of a Dirichlet(0.3) share."""
    x, y = (values[1000:] for values in pictures)
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(CLASSES, 0.3))[y]
    index = rng.choice(len(y), 800, p=share / share.sum())
    return 0.5 * x[index] + np.float32(0.15), y[index]


def error(bundle, stream, **scalars):
    frames, labels = stream
    with edgemem.open(bundle, threads=1, hyper_parameters=scalars) as runtime:
        return (runtime.step(frames).logits.argmax(1) != labels).mean()


@pytest.mark.parametrize("seed", range(4))
def test_pale_frames_with_skewed_labels_are_predicted_better_when_remembered(
    seed, trained, pictures
):
    """Three quarters of the errors of mixing at most, whatever its weight; better without the class
    prior, too."""
    stream = skewed_and_dimmed(pictures, seed)
    alpha = open_bundle(trained["remembered"]).manifest.hyper_parameters["alpha"].default
    mixed, mixed_alike = error(trained["mix"], stream), error(trained["mix"], stream, alpha=alpha)
    assert error(trained["remembered"], stream) < min(mixed, mixed_alike) * 3 / 4
    assert error(trained["remembered"], stream, prior_weight=0.0) < mixed_alike
