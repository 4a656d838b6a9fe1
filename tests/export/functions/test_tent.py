"""Law 2: the runtime knows no method. A bundle whose graph is Tent runs on it unchanged."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.export import Choices
from edgemem.models import attach
from edgemem.models.networks.digits import Digits
from edgemem.state.store import State

BATCH, STEPS, RATE = 8, 6, 0.02


@pytest.fixture(scope="module")
def bundle(lively, exported):
    network = lively(Digits(width=8))
    network.classifier.weight.data *= 3  # sure enough for entropy to pull
    model = attach(network, [], torch.zeros(2, 1, 8, 8), statistics="batch", norm_affine=True)
    published = {"source_share": 0.0}
    choices = Choices(BATCH, "full", "all", "tent", learning_rate=RATE, hyper_parameters=published)
    return exported(network, model, choices)


def stream():
    x = np.random.default_rng(0).random((STEPS * BATCH, 1, 8, 8), np.float32)
    return x * 0.6 + 0.3


def tent_in_torch(network, x):
    """Tent as published: train mode, batch statistics, SGD on the affine pairs (DequanWang/tent).

    Returns the network after all steps and the logits from before each update.
    """
    network = copy.deepcopy(network).train().requires_grad_(False)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(True)
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    pairs = [p for norm in norms for p in norm.parameters()]
    optimizer = torch.optim.SGD(pairs, RATE, momentum=0.9)
    logits = []
    for batch in torch.from_numpy(x).split(BATCH):
        output = network(batch)
        entropy = -(output.softmax(1) * output.log_softmax(1)).sum(1)
        optimizer.zero_grad()
        entropy.mean().backward()
        optimizer.step()
        logits.append(output.detach())
    return network, torch.cat(logits).numpy()


@pytest.mark.slow
def test_the_runtime_runs_tent_as_plain_torch_does(bundle, tmp_path):
    x = stream()
    adapted, expected = tent_in_torch(bundle.network, x)
    with edgemem.open(bundle.path, tmp_path / "state.db", threads=1) as runtime:
        found = runtime.step(x)
        assert runtime.counters["updates"] == STEPS
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=1e-4)

    with_state = State(tmp_path / "state.db", open_bundle(bundle.path).identity)
    arrays = with_state.read().arrays
    with_state.close()
    before = dict(bundle.network.named_parameters())
    compared, largest = 0, 0.0
    for name, parameter in adapted.named_parameters():
        stored = arrays.get(f"block.frozen.{name}_delta")
        if stored is None:
            assert parameter.equal(before[name])
            continue
        moved = (parameter - before[name]).detach().numpy()
        np.testing.assert_allclose(stored, moved, rtol=0, atol=1e-4, err_msg=name)
        compared, largest = compared + 1, max(largest, float(np.abs(moved).max()))
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in adapted.modules())
    assert compared == 2 * norms == len(bundle.model.block())
    assert largest > 0.01  # it did move, by far more than the tolerance


@pytest.mark.slow
def test_its_frozen_answer_is_the_network_with_source_statistics(bundle):
    x = stream()
    with edgemem.open(bundle.path, threads=1) as runtime:
        runtime.step(x)
        found = runtime.predict(x, frozen=True).logits
    with torch.no_grad():
        expected = bundle.network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_its_block_is_the_affine_pairs_and_nothing_else(bundle):
    names = [spec.name for spec in open_bundle(bundle.path).manifest.block.arrays]
    assert names
    assert all(name.endswith(("weight_delta", "bias_delta")) for name in names)
    assert all((value == 0).all() for value in open_bundle(bundle.path).generic.values())
