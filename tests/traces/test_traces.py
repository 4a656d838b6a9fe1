"""Recorded runs of the public API, played again: to the bit on the machine that recorded them."""

import pytest
from tracing.files import names, read
from tracing.replay import replay


@pytest.mark.parametrize("name", names())
def test_what_is_played_again_is_as_recorded(name):
    found = replay(name)
    assert found.differences == []
    if found.exact:
        assert found.calls == found.total


@pytest.mark.parametrize("name", names())
def test_no_call_runs_more_graphs_than_recorded(name):
    trace, _ = read(name)
    assert all("expect" in call for call in trace["calls"])
