"""The relation of prototypes to samples, against loops; and as part of an exported step."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgemem.bundle.opening import open_bundle
from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.export.functions.relation import relation_distance
from edgemem.models import attach
from edgemem.models.networks import digits

SAMPLES, CLASSES, SIZE = 6, 4, 5


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(SAMPLES, SIZE), torch.randn(SAMPLES, SIZE), torch.randn(CLASSES, SIZE)


def by_loops(features, teacher, prototypes, temperature):
    total = 0.0
    for prototype in prototypes:
        old, new = (
            [math.exp(torch.cosine_similarity(f, prototype, 0).item() / temperature) for f in view]
            for view in (teacher, features)
        )
        pairs = [(a / sum(old), b / sum(new)) for a, b in zip(old, new, strict=True)]
        total += sum(a * math.log(a / b) for a, b in pairs)
    return total / len(prototypes)


def test_room_for_prototypes_does_not_count(batch):
    features, teacher, prototypes = batch
    room = torch.cat([prototypes, torch.zeros(3, SIZE)])
    opened = torch.tensor([1.0] * CLASSES + [0.0] * 3)
    alone = relation_distance(features, teacher, prototypes, torch.tensor(0.3))
    beside = relation_distance(features, teacher, room, torch.tensor(0.3), opened)
    torch.testing.assert_close(beside, alone)


def test_it_is_the_divergence_of_relations_over_the_samples(batch):
    found = relation_distance(*batch, torch.tensor(0.3)).item()
    assert found == pytest.approx(by_loops(*batch, 0.3), rel=1e-5)


def test_features_of_the_teacher_and_longer_ones_are_at_no_distance(batch):
    features, _, prototypes = batch
    for same in (features, 3 * features):
        distance = relation_distance(same, features, prototypes, torch.tensor(0.1))
        assert distance.item() == pytest.approx(0, abs=1e-6)


def test_its_gradient_is_that_of_finite_differences(batch):
    features, teacher, prototypes = (value.double() for value in batch)
    temperature = torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda f: relation_distance(f, teacher, prototypes, temperature), features.requires_grad_()
    )


@pytest.mark.slow
def test_an_exported_step_keeps_relations(lively, warmed, tmp_path):
    model = warmed(attach(lively(digits()), ["layer1", "layer2"], torch.zeros(2, 1, 8, 8)))
    choices = Choices(batch=8, objective="prototype_relation")
    path = tmp_path / "net.edgemem"
    export_bundle(model, path, choices).check()
    session = onnxruntime.InferenceSession(str(path / "adapt.onnx"))
    rng = np.random.default_rng(0)
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    feeds |= {f"block.{name}": array for name, array in open_bundle(path).generic.items()}
    feeds["x"] = rng.random(feeds["x"].shape, np.float32)
    chosen = {"alpha": 0.5, "relation_temperature": 0.1, "highest_probability": 0.99}
    feeds |= {f"hp.{name}": np.asarray(value, np.float32) for name, value in chosen.items()}
    names = ["stat.relation", "stat.loss"]
    without, with_weight = (
        session.run(names, feeds | {"hp.relation_weight": np.asarray(weight, np.float32)})
        for weight in (0, 2)
    )
    assert without[0] > 0
    assert with_weight[1] - without[1] == pytest.approx(2 * without[0], rel=1e-4)


class WithoutClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3))

    def forward(self, x):
        return self.layer(x).mean((2, 3))


def test_a_network_without_a_linear_classifier_has_no_prototypes(lively, warmed, tmp_path):
    model = warmed(attach(lively(WithoutClassifier()), ["layer"], torch.zeros(2, 1, 8, 8)))
    with pytest.raises(ExportError, match="does not answer by a linear layer"):
        export_bundle(model, tmp_path / "net.edgemem", Choices(objective="prototype_relation"))
    assert not (tmp_path / "net.edgemem").exists()
