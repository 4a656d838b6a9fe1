"""Graphs for one batch size: rows that only fill the batch up have no effect on any output."""

import pytest
import torch

from edgemem.export.functions.predict_adapt import key_function, predict_function
from edgemem.models import attach
from edgemem.models.networks import digits

BATCH = 6


@pytest.fixture(scope="module", params=["source", "batch", "mix", "remembered"])
def model(request, lively, warmed):
    network = lively(digits())
    x = torch.zeros(2, 1, 8, 8)
    model = warmed(attach(network, ["layer1", "layer2"], x, statistics=request.param))
    model.add_norm_affine()
    with torch.no_grad():
        for array in model.remembered().values():
            array.add_(0.01 * torch.rand_like(array))
    return model


def called(function, x, filled=None):
    inputs = function.inputs | {"x": x} | ({} if filled is None else {"filled": filled})
    with torch.no_grad():
        return function.call(*(inputs[name] for name in function.inputs))


@pytest.mark.parametrize("frames", range(1, BATCH + 1))
@pytest.mark.parametrize("make", [predict_function, key_function])
def test_what_fills_a_batch_up_has_no_effect(model, make, frames):
    x = torch.rand(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(frames))
    dynamic, static = make(model, x), make(model, x, static=True)
    expected = called(dynamic, x[:frames])
    for rest in (torch.zeros_like(x[frames:]), 100.0 * torch.ones_like(x[frames:])):
        found = called(static, torch.cat([x[:frames], rest]), torch.tensor(float(frames)))
        if make is predict_function:
            torch.testing.assert_close(found[0][:frames], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-5, atol=1e-6)
