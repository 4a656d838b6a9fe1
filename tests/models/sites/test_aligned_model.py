"""From a model and frames to one that adapts: which sites are chosen, and what a device does."""

import numpy as np
import pytest
import torch
from torch import nn

import edgemem
from edgemem.errors import AttachError
from edgemem.export import Choices, export_bundle
from edgemem.models.sites.aligned_model import align
from edgemem.models.sites.choosing import SMALLER_ALPHAS, settled_alpha

SHAPE = (1, 8, 8)


def pictures(count, seed=0):
    """Bars of four directions and some noise, with their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    grid = np.mgrid[0:8, 0:8].astype(np.float32)
    waves = [grid[0], grid[1], grid[0] + grid[1], grid[0] - grid[1]]
    phase = rng.random((count, 1, 1)) * 6.28
    x = np.stack([np.sin(1.6 * waves[c] + p) for c, p in zip(labels, phase, strict=True)])
    x = 0.5 + 0.2 * x + rng.normal(0, 0.03, x.shape)
    return x[:, None].astype(np.float32), labels


@pytest.fixture(scope="module")
def plain():
    """A network without norms, trained on the pictures."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    x, y = (torch.from_numpy(v) for v in pictures(512))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        assert (network(x).argmax(1) == y).float().mean() > 0.9
    return network


def test_sites_are_found_that_gain_and_only_those_that_are_needed(plain):
    frames, labels = pictures(256, seed=1)
    notes = []
    model, chosen = align(plain, frames, labels, note=notes.append)
    assert set(chosen.names) <= {"0", "2"} and chosen.names == model.attachment.sites
    assert chosen.error < chosen.frozen - 0.05
    least = min(error for _, error in chosen.tried.values())
    fewest = min(count for count, error in chosen.tried.values() if error <= least + 0.005)
    assert len(chosen.names) == fewest
    assert model.alpha(16) == chosen.alpha and model.source_moments is not None
    assert "sites: convolutions" in notes


def test_without_labels_the_answers_before_the_shift_are_what_is_right(plain):
    frames, _ = pictures(256, seed=1)
    _, chosen = align(plain, frames)
    assert chosen.error < chosen.frozen - 0.05


def test_a_network_with_batch_norms_needs_no_sites(lively):
    network = lively(nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ))  # fmt: skip
    _, chosen = align(network, pictures(64)[0])
    assert chosen.names == () and list(chosen.tried) == ["BatchNorms alone"]


def test_few_batch_norms_among_many_convolutions_do_not_align_these(lively):
    """As files have them, where an exporter has folded most."""
    parts = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(3):
        parts += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    network = lively(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)))
    _, chosen = align(network, pictures(64)[0])
    assert {"BatchNorms alone", "convolutions"} <= set(chosen.tried)


class Ranks(nn.Module):
    """A mask of the brighter pixels of each frame, which no light can change."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([1.0, -1.0, 2.0, 3.0]).view(4, 1, 1, 1))

    def forward(self, x):
        y = self.layer(x)[:, :2]
        y = y - y.mean((2, 3), keepdim=True)
        return y / y.abs().amax((1, 2, 3), keepdim=True)


def test_where_nothing_is_gained_the_least_weight_is_taken():
    network = Ranks()
    _, chosen = align(network, pictures(64)[0], task="dense")
    assert chosen.alpha == min(SMALLER_ALPHAS)
    assert chosen.harm <= 2 * chosen.error


@pytest.mark.parametrize("task", ["classes", "dense"])
def test_a_smaller_weight_is_taken_for_its_gain_or_without_classes_for_being_as_good(task):
    alike = {0.8: 0.300, 0.5: 0.303, 0.25: 0.309}
    assert settled_alpha(alike, 0.005, task) == {"classes": 0.8, "dense": 0.5}[task]
    better = {0.8: 0.300, 0.5: 0.280, 0.25: 0.290}
    assert settled_alpha(better, 0.005, task) == 0.5


@pytest.mark.slow
def test_a_device_answers_as_the_frozen_model_and_better_once_the_light_changes(plain, tmp_path):
    frames, labels = pictures(256, seed=1)
    model, _ = align(plain, frames, labels, sites=["0", "2"], batch=32)
    export_bundle(model, tmp_path / "b.edgemem", Choices(batch=32, learning_rate=1e-4))
    x, y = pictures(320, seed=2)
    dark = 0.5 * x
    with torch.no_grad():
        given = plain(torch.from_numpy(dark))
    with edgemem.open(tmp_path / "b.edgemem") as runtime:
        found = [runtime.step(dark[start : start + 32]) for start in range(0, 320, 32)]
    wrong = np.concatenate([result.labels for result in found]) != y
    assert wrong.mean() < 0.3 * (given.argmax(1).numpy() != y).mean()
    assert any(event.kind == "adapted" for result in found for event in result.events)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_what_layers_give_may_be_of_any_size(size):
    """No norm of the network has seen its training data, so none can call frames strange."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        first.weight.mul_(size)
        first.bias.fill_(3 * size)
    network = nn.Sequential(
        first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    frames = np.random.default_rng(0).uniform(0, 1, (64, 3, 8, 8)).astype(np.float32)
    adaptive, _ = align(network, frames, sites=["0"])
    assert adaptive.attachment.sites == ("0",)


def test_frames_of_another_shape_are_refused_by_the_model(plain):
    wrong = np.zeros((64, 3, 8, 8), np.float32)
    for sites in ("auto", ["0"]):
        with pytest.raises(AttachError, match="the model refuses"):
            align(plain, wrong, sites=sites)


def test_a_network_with_nothing_to_align_is_refused_with_a_way_out():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.classifier = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, x):
            return self.classifier(self.inner(x[:, 0])[1][0][-1])

    with pytest.raises(AttachError, match="has no layer behind which .* put a BatchNorm before"):
        align(Last().eval(), pictures(64)[0])


def test_one_number_a_frame_without_labels_may_be_anything(plain):
    one = nn.Sequential(plain, nn.Linear(4, 1)).eval()
    frames = pictures(64)[0]
    with pytest.raises(AttachError, match="a logit of two classes, or any number.*'regression'"):
        align(one, frames)
    model, _ = align(one, frames, task="regression")
    assert model.attachment.task == "regression"


class Through(nn.Module):
    """Gives its frames back, all but the brightest parts, by way of a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.norm.running_mean.fill_(0.5)
        self.norm.running_var.fill_(0.04)

    def forward(self, x):
        y = 0.2 * self.norm(x) + 0.5
        return y.clamp(max=0.8)


def test_a_reconstruction_is_right_where_it_gives_the_shift_back():
    """Aligned, it would give back frames without the shift, of which a device would make alarms."""
    frames, _ = pictures(96)
    _, found = align(Through(), frames, task="reconstruction")
    assert found.alpha == 0.0 and found.harm == 0.0 and found.error == found.frozen
    _, same = align(Through(), frames, task="regression")  # of the frames before the shift
    assert same.alpha > 0.0 and same.error < same.frozen
