"""Identity norms: nothing at source statistics, moments of the source at any others."""

import pytest
import torch

from edgemem.models.norms.statistics import PassSettings
from edgemem.models.sites.identity_norm import EPS, IdentityNorm


def measured(axis, channels=4):
    torch.manual_seed(0)
    norm = IdentityNorm(channels, axis, PassSettings())
    norm.take_moments(torch.randn(channels), torch.rand(channels) + 0.1)
    return norm


def tokens(seed=1):
    torch.manual_seed(seed)
    return 3 * torch.randn(5, 6, 4) - 1


def test_before_measuring_and_at_source_statistics_everything_passes():
    x = tokens()
    assert IdentityNorm(4, -1, PassSettings())(x) is x
    torch.testing.assert_close(measured(-1)(x), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [1, -1])
def test_at_the_batchs_statistics_what_comes_out_has_the_moments_of_the_source(axis):
    norm, x = measured(axis), tokens() if axis == -1 else tokens().movedim(-1, 1)
    norm.settings.alpha = torch.tensor(1.0)
    y = norm(x).movedim(axis, -1).flatten(0, 1)
    torch.testing.assert_close(y.mean(0), norm.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y.var(0, correction=0), norm.var, rtol=1e-3, atol=1e-5)


def test_channels_that_come_last_are_treated_as_those_that_come_first():
    x = tokens()
    first, last = measured(1), measured(-1)
    first.settings.alpha = last.settings.alpha = torch.tensor(0.7)
    found = first(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(found, last(x))


def test_the_pair_of_the_block_is_relative_to_the_deviation_of_the_source():
    norm, x = measured(-1), tokens()
    norm.make_trainable()
    with torch.no_grad():
        norm.weight_delta += 0.5
        norm.bias_delta += 0.25
    deviation = (norm.var + EPS * norm.var.mean()).sqrt()
    expected = norm.mean + 1.5 * (x - norm.mean) + 0.25 * deviation
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)


def test_values_of_any_scale_are_aligned_alike():
    small, large, x = measured(-1), measured(-1), tokens()
    small.take_moments(1e-4 * small.mean, 1e-8 * small.var)
    for norm in (small, large):
        norm.settings.alpha = torch.tensor(1.0)
    torch.testing.assert_close(1e4 * small(1e-4 * x), large(x), rtol=1e-3, atol=1e-4)
