"""How much surer than the frozen model a block has to be."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgemem.export import Choices, export_bundle
from edgemem.export.checks.calibrating_share import (
    ALIKE,
    ALIKE_PART,
    BatchTrial,
    in_runs,
    trial,
)
from edgemem.models.sites.aligned_model import align

share = st.integers(0, 20).map(lambda part: part / 20)
batch = st.builds(
    BatchTrial, st.integers(0, 2), share, share, st.floats(0.1, 3), in_runs=st.just(False)
)


def loss_of(batches, below):
    """Brute force: error and harm, mean over shifts."""
    losses = []
    for shift in {b.shift for b in batches}:
        own = [b for b in batches if b.shift == shift]
        error = np.mean([b.own if b.ratio < below else b.frozen for b in own])
        losses.append(error + max(0, error - np.mean([b.frozen for b in own])))
    return np.mean(losses)


@given(st.lists(batch, min_size=2, max_size=12))
def test_no_limit_does_better_and_one_that_gains_nothing_is_none(batches):
    found = trial(batches)
    ratios = sorted({b.ratio for b in batches})
    every = [0.0, *[ratio * (1 + 1e-9) for ratio in ratios], np.inf]
    least, unlimited = min(loss_of(batches, b) for b in every), loss_of(batches, np.inf)
    assert found.unlimited == pytest.approx(unlimited, abs=1e-8)
    if found.below is None:
        alike = min(ALIKE, ALIKE_PART * found.frozen)
        assert least >= unlimited - alike - 1e-8
    else:
        assert loss_of(batches, found.below) == pytest.approx(found.loss, abs=1e-8)
        assert found.loss == pytest.approx(least, abs=1e-8)


@given(st.lists(batch, min_size=1, max_size=8), st.lists(batch, min_size=1, max_size=8))
def test_runs_of_a_class_cost_nothing_where_frames_come_in_any_order(mixed, runs):
    runs = [b._replace(shift=b.shift + 3, in_runs=True) for b in runs]
    found = trial(mixed + runs)
    every = [0.0, *[b.ratio * (1 + 1e-9) for b in mixed + runs], np.inf]
    alike = min(ALIKE, ALIKE_PART * loss_of(mixed, 0.0))
    fair = min(loss_of(mixed, below) for below in every) + alike
    if found.below is not None:
        assert loss_of(mixed, found.below) <= fair + 1e-8
        assert found.loss <= loss_of(mixed + runs, np.inf)
        allowed = [below for below in every if loss_of(mixed, below) <= fair - 1e-8]
        least = min((loss_of(mixed + runs, below) for below in allowed), default=np.inf)
        assert found.loss <= least + 1e-8


def test_a_limit_that_only_runs_ask_for_spares_uncertain_frames():
    """A warmed-up ResNet: it is right under noise, and less certain than the frozen model there."""
    noise = [BatchTrial(1, 0.4, 0.8, 1.6), BatchTrial(1, 0.4, 0.8, 1.8)]
    runs = [BatchTrial(9, 0.7, 0.2, 1.4, True), BatchTrial(8, 0.7, 0.0, 9.0, True)]
    found = trial(noise + runs)
    assert 1.8 < found.below < 9.0
    assert trial([BatchTrial(1, 0.4, 0.8, 0.5), *runs]).below < 1.4


def test_the_limit_lies_in_the_middle_of_the_gap():
    helped = [BatchTrial(1, 0.1, 0.4, 0.4), BatchTrial(1, 0.1, 0.4, 0.5)]
    harmed = [BatchTrial(2, 0.3, 0.1, 0.8), BatchTrial(2, 0.3, 0.1, 0.9)]
    found = trial(helped + harmed)
    assert found.below == pytest.approx(np.sqrt(0.5 * 0.8))
    assert found.loss == pytest.approx(0.1) and found.frozen == pytest.approx(0.25)


def test_a_block_that_is_always_worse_never_answers():
    found = trial([BatchTrial(shift, 0.5, 0.1, ratio) for shift, ratio in [(0, 0.2), (1, 0.7)]])
    assert found.below < 0.2


@pytest.mark.parametrize(("frames", "size"), [(40, 4), (40, 8), (17, 8)])
def test_batches_of_runs_hold_as_few_classes_as_can_be(frames, size):
    classes = np.random.default_rng(0).integers(0, 5, frames)
    found = np.split(in_runs(classes, 2 * size, size), 2)
    most = 2 + size // np.bincount(classes, minlength=5).min()
    for batch in found:
        assert len(set(batch)) == size
        held = classes[batch]
        assert np.all(np.diff(held) >= 0) and len(set(held)) <= most


@pytest.mark.parametrize("frames", [40, 12])
def test_a_bundle_gets_what_its_source_frames_say_or_nothing(frames, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip
    source = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)
    model, _ = align(network, source, sites=())
    model.source_frames = model.source_frames[:frames]
    export_bundle(model, tmp_path / "b.edgemem", Choices(batch=8, objective="statistics"))
    found = json.loads((tmp_path / "b.edgemem" / "manifest.json").read_text())
    told = found["exported_from"].get("frozen_share")
    assert (told is None) == (frames < 16)
    assert found.get("surer_below") == (told and told["below"])
