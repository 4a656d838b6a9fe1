"""LAME and T3A, which change answers and no norm: each against its rule, in loops."""

import math

import numpy as np
import pytest
import torch
from norm_peers import (
    CLASSES,
    images,
    made,
    same,
    state_of,
)
from torch import nn
from torch.nn import functional

from benchmarks.adaptation.peers import forward_only

pytestmark = pytest.mark.slow


def brute_force_lame(probabilities, features):
    """Algorithm 1 by loops, in float64, for far more rounds than it needs."""
    count = len(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.array([[np.linalg.norm(a - b) for b in unit] for a in unit])
    width = np.mean([sorted(row)[4] for row in apart])
    kernel = np.exp(-(apart**2) / (2 * width**2))
    answers = probabilities.copy()
    for _ in range(2000):
        pulls = [sum(kernel[i, j] * answers[j] for j in range(count)) for i in range(count)]
        answers = probabilities * np.exp(np.array(pulls))
        answers /= answers.sum(1, keepdims=True)
    return answers


def test_lame_agrees_with_a_brute_force_fixed_point_and_changes_no_parameter(model, source):
    method, frames = made("LAME", model, source), images(16, 2)
    start = state_of(method.model)
    answer = method.adapt(frames)
    assert same(start, method.model.state_dict())
    with torch.no_grad():
        features = model[:-1](frames).double().numpy()
        probabilities = model(frames).double().softmax(1).numpy()
    expected = brute_force_lame(probabilities, features)
    np.testing.assert_allclose(answer.exp().numpy(), expected, atol=1e-3)
    assert not np.allclose(expected, probabilities, atol=1e-2)


def test_lame_answers_a_frame_alone(model, source):
    frame = images(1, 2)
    answer = made("LAME", model, source).adapt(frame)
    assert answer.isfinite().all() and answer.argmax() == model(frame).argmax()


def rows_model():
    """Features are the frames themselves; class k has the k-th unit vector."""
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    return model.eval()


def test_t3a_answers_with_the_unit_sum_of_its_most_certain_supports():
    method = forward_only.T3A(rows_model(), keep=2)
    asked = torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(method.predict(asked), torch.tensor([[1.0, 1.0]]))
    frames = torch.tensor([[3.0, 1.0], [6.0, 0.0], [0.4, 0.2]])  # all class 0, by certainty 2 1 3
    answer = method.adapt(frames)
    # Class 0 keeps (6, 0) and (3, 1): more certain than its own row (1, 0).
    column = torch.tensor([6.0, 0.0]) / 6 + torch.tensor([3.0, 1.0]) / math.sqrt(10)
    prototypes = torch.stack([column / column.norm(), torch.tensor([0.0, 1.0])], 1)
    torch.testing.assert_close(answer, frames @ prototypes)
    torch.testing.assert_close(method.predict(asked), asked @ prototypes)
    assert method.labels.tolist() == [0, 0, 1]


def test_t3a_begins_with_the_classifiers_unit_rows(model, source):
    method, frames = forward_only.T3A(model), images(8, 2)
    with torch.no_grad():
        features = model[:-1](frames)
        rows = model[-1].weight
        labels = model[-1](rows).argmax(1)
    expected = torch.zeros(8, CLASSES)
    for label in labels.unique():
        column = functional.normalize(rows[labels == label], dim=1).sum(0)
        expected[:, label] = features @ (column / column.norm())
    torch.testing.assert_close(method.predict(frames), expected)
