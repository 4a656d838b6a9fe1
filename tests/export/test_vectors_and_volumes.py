"""Frames [features] and [c, d, h, w] all the way: warm-up, export, runtime."""

import numpy as np
import pytest
import torch
from torch import nn

import edgemem
from edgemem.export import Choices, export_bundle
from edgemem.models import attach
from edgemem.models.data import load_dataset
from edgemem.models.warmup.warm_up import warm_up
from edgemem.models.warmup.warm_up_recipe import Recipe


class Vectors(nn.Module):
    input_shape = (10,)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.SiLU())
        self.classifier = nn.Linear(12, 3)

    def forward(self, x):
        return self.classifier(self.second(self.first(x)))


class Volumes(nn.Module):
    input_shape = (2, 4, 5, 6)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU())
        self.second = nn.Sequential(
            nn.MaxPool3d(2), nn.Conv3d(6, 8, 3, 1, 1), nn.BatchNorm3d(8), nn.ReLU()
        )
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        return self.classifier(self.second(self.first(x)).mean((2, 3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Vectors, Volumes])
def test_frames_of_any_rank_are_warmed_up_exported_and_adapted_to(kind, lively, tmp_path):
    network = lively(kind())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, *kind.input_shape)).astype(np.float32)
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(tmp_path / "train.npz", x=x, y=y)
    frames, labels = load_dataset(tmp_path / "train.npz")
    example = torch.zeros(2, *kind.input_shape)
    model = attach(network, ["first", "second"], example, statistics="remembered", norm_affine=True)
    warm_up(model, frames, labels, Recipe(epochs=1, batch_size=16))
    export_bundle(model, tmp_path / "net.edgemem", Choices(batch=8, max_classes=5))
    with edgemem.open(tmp_path / "net.edgemem", threads=1) as runtime:
        frozen = runtime.predict(x, frozen=True).logits
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(frozen[:, :3], expected, rtol=1e-4, atol=1e-5)
        alone = runtime.predict(x[0], frozen=True).logits
        np.testing.assert_allclose(alone[0, :3], expected[0], rtol=1e-4, atol=1e-5)
        before = runtime.predict(x[:20]).logits
        runtime.step(x + 0.5)
        assert runtime.counters["updates"] > 0
        assert (runtime.predict(x[:20]).logits != before).any()
        runtime.learn(x[:8], ["new"] * 8)
        assert (runtime.predict(x[:8]).labels == 3).any()
