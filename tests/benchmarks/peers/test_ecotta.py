"""EcoTTA, written again: meta networks, their regulariser and their warm-up."""

import pytest
import torch
from teacher_peers import CLASSES, PARTS, frames_of, made, settled
from torch import nn

from benchmarks.adaptation.peers import ecotta
from benchmarks.adaptation.peers.base import Source, copied, use_batch_statistics
from benchmarks.shared import views

pytestmark = pytest.mark.slow


def test_a_meta_network_with_nothing_in_its_branch_adds_a_norm_to_the_frozen_part():
    model, source = settled()
    method = ecotta.make_ecotta(model, source, 5e-3, PARTS)
    for meta in method.model.metas:
        nn.init.zeros_(meta.conv_norm.weight)
    frozen = copied(model)
    use_batch_statistics(frozen)
    frames = frames_of("image", 32)
    with torch.no_grad():
        x = frames
        for k in (0, 3):
            x = nn.functional.batch_norm(frozen.layers[k : k + 3](x), None, None, training=True)
        expected = frozen.linear(x.flatten(2).mean(2))
    torch.testing.assert_close(method.predict(frames), expected, rtol=1e-4, atol=1e-5)


def test_the_regulariser_of_a_part_reaches_that_part_only():
    model, source = settled()
    adapted = ecotta.MetaModel(model, PARTS, source.frames[:2])
    adapted.distances(frames_of("image", 16))
    adapted.parts[1].distance.backward()
    first, second = adapted.metas
    assert all(p.grad is None for p in first.parameters())
    assert all(p.grad is not None for p in second.parameters())
    assert all(p.grad is None for p in adapted.model.parameters())


def test_without_a_reliable_prediction_only_the_regulariser_steps():
    method = made("EcoTTA")
    method.margin = 0.0
    steps, step = [], method.optimizer.step
    method.optimizer.step = lambda: steps.append(1) or step()
    method.adapt(frames_of("image", 16))
    assert len(steps) == 1
    method.margin = 100.0
    method.adapt(frames_of("image", 16))
    assert len(steps) == 3
    assert all(p.isfinite().all() for p in method.model.metas.parameters())


def test_warming_up_learns_the_source_and_its_weights_load():
    model, source = settled()
    labels = (source.frames.mean((1, 2, 3)) > source.frames.mean()).long()
    source = Source(source.frames, labels, CLASSES, source.augment)

    def loss(warmed):
        method = ecotta.make_ecotta(model, source, 5e-3, PARTS, warmed)
        return nn.functional.cross_entropy(method.predict(source.frames), labels)

    torch.manual_seed(0)
    start = ecotta.warm_up(model, source, PARTS, epochs=0)
    torch.manual_seed(0)
    warmed = ecotta.warm_up(model, source, PARTS, epochs=4, batch=20, view=views.warm_up_view)
    assert loss(warmed) < loss(start)
