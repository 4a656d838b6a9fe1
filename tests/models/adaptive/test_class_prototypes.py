"""Where features of each class lie: against numpy, in checkpoints, and room for more classes."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemem.models import attach, load_adaptive, save_adaptive
from edgemem.models.adaptive import class_prototypes as module
from edgemem.models.adaptive.class_prototypes import ClassPrototypes, observe_classes, prototypes_of
from edgemem.models.networks.digits import Digits
from edgemem.models.norms.remembered import CLASS_PRIOR

CLASSES, SIZE = 3, 8


@pytest.fixture
def model():
    torch.manual_seed(0)
    return attach(Digits(CLASSES, 4).eval(), [], torch.zeros(2, 1, 8, 8), statistics="remembered")


def source(count=240):
    rng = np.random.default_rng(0)
    return rng.random((count, 1, 8, 8)).astype(np.float32), np.arange(count) % CLASSES


def features_of_all(model, frames):
    """What the classifier is given, by a hook of its own."""
    seen = []
    handle = model.frozen.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for start in range(0, len(frames), module.CHUNK):
            model(torch.from_numpy(frames[start : start + module.CHUNK]), torch.tensor(0.8))
    handle.remove()
    return torch.cat(seen).numpy().astype(np.float64)


def test_features_are_whitened_by_what_varies_within_a_class(model, monkeypatch):
    monkeypatch.setattr(module, "SHRINKAGE", 0.0)
    frames, labels = source()
    observe_classes(model, frames, labels)
    order = np.random.default_rng(0).permutation(len(frames))
    x, y = features_of_all(model, frames[order]), labels[order]
    means = np.stack([x[y == c].mean(0) for c in range(CLASSES)])
    white = (x - means[y]) @ model.prototypes.whitening.numpy()
    np.testing.assert_allclose(white.T @ white / len(x), np.eye(SIZE), atol=1e-3)
    np.testing.assert_allclose(model.prototypes.center, means.mean(0), atol=1e-6)


def test_prototypes_are_the_mean_directions_of_their_classes(model):
    frames, labels = source()
    observe_classes(model, frames, labels)
    order = np.random.default_rng(0).permutation(len(frames))
    x, held = features_of_all(model, frames[order]), model.prototypes
    for c in range(CLASSES):
        rows = (x[labels[order] == c] - held.center.numpy()) @ held.whitening.numpy()
        total = sum(row / np.linalg.norm(row) for row in rows)
        np.testing.assert_allclose(held.source[c], total / np.linalg.norm(total), atol=1e-5)


def test_many_features_are_not_whitened(model, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", SIZE - 1)
    observe_classes(model, *source())
    assert torch.equal(model.prototypes.whitening, torch.eye(SIZE))


def test_nothing_is_kept_where_a_class_is_missing(model):
    frames, labels = source()
    observe_classes(model, frames[labels < 2], labels[labels < 2])
    assert model.prototypes is None


def test_nothing_is_kept_without_a_linear_classifier():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm2d(1), nn.Conv2d(1, CLASSES, 8)

        def forward(self, x):
            return self.last(self.norm(x)).flatten(1)

    model = attach(Bare().eval(), [], torch.zeros(2, 1, 8, 8), norm_affine=True)
    observe_classes(model, *source())
    assert model.prototypes is None
    assert prototypes_of(model) is None


def test_a_checkpoint_keeps_them(model, tmp_path):
    observe_classes(model, *source())
    save_adaptive(model, tmp_path / "model.safetensors", {})
    loaded, _ = load_adaptive(tmp_path / "model.safetensors", Digits(CLASSES, 4))
    for name in ("center", "whitening", "source"):
        assert torch.equal(getattr(loaded.prototypes, name), getattr(model.prototypes, name))


def test_rows_of_the_classifier_stand_in_for_what_was_not_observed(model):
    held = prototypes_of(model)
    rows = model.frozen.classifier.weight
    torch.testing.assert_close(held.source, rows / rows.norm(dim=1, keepdim=True))
    features = torch.rand(5, SIZE)
    torch.testing.assert_close(
        held.embedded(features), features / features.norm(dim=1, keepdim=True)
    )


def test_room_for_classes_is_there_only_while_asked_for(model):
    before, prior = set(model.block()), getattr(model, CLASS_PRIOR)
    held = ClassPrototypes(torch.zeros(SIZE), torch.eye(SIZE), torch.eye(SIZE)[:CLASSES])
    with model.teachable(held, 7):
        taught = {name: tuple(array.shape) for name, array in model.taught().items()}
        assert taught == {
            "prototypes.sums": (7, SIZE),
            "prototypes.frames": (7,),
            "prototypes.seen": (CLASSES, SIZE),
        }
        assert set(model.block()) == before | set(taught)
        assert getattr(model, CLASS_PRIOR).shape == (7,)
        assert not any(array.any() for array in model.taught().values())
    assert set(model.block()) == before
    assert getattr(model, CLASS_PRIOR) is prior
    assert model.prototypes is None
