"""ReservoirTTA: sets of norms by style, opened, found again and bounded."""

import pytest
import torch
from teacher_peers import frames_of, made, settled

from benchmarks.adaptation.peers import reservoir_tta

pytestmark = pytest.mark.slow


def test_the_reservoir_opens_a_set_far_away_and_finds_the_first_again():
    method = made("ReservoirTTA")
    source = frames_of("image", 200, seed=9)
    torch.manual_seed(0)
    method.adapt(source[:64])
    assert len(method.sets) == 1
    first = [value.clone() for value in method.sets[0].values]
    method.adapt(0.05 * source[:64])
    assert len(method.sets) == 2
    nearest = [method.router.shares(method.style.key(x)).argmax() for x in (source, 0.05 * source)]
    assert nearest == [0, 1]
    for value, kept in zip(method.sets[0].values, first, strict=True):
        assert torch.equal(value, kept)
    method.adapt(source[100:164])
    method.adapt(0.05 * source[100:120])
    assert len(method.sets) == 2


def test_a_small_batch_opens_no_set():
    method = made("ReservoirTTA")
    method.adapt(frames_of("image", 64))
    method.adapt(0.05 * frames_of("image", 32))
    assert len(method.sets) == 1


def test_the_style_key_is_the_logarithm_of_the_variance_over_the_batch():
    model, _ = settled()
    frames = frames_of("image", 20)
    style = reservoir_tta.Style(model)
    with torch.no_grad():
        second = model.layers[:4](frames)
    torch.testing.assert_close(style.key(frames), second.var((0, 2, 3)).log())


def test_the_reservoir_holds_16_sets_at_most():
    torch.manual_seed(0)
    router = reservoir_tta.Router(torch.randn(50, 4))
    opened = [router.route(torch.full((4,), 100.0 * k), True)[1] for k in range(1, 30)]
    assert opened == [True] * 15 + [False] * 14
    assert len(router.buffer) == 29
