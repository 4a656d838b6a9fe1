"""Recorded runs of the public API, played again: to the bit on the machine that recorded them."""

from functools import cache
from itertools import chain

import pytest
from tracing.files import names, read
from tracing.frames import ROOT, uniform
from tracing.replay import compared, replay

from edgemem.runtime.result import EventKind

# Kinds of events that no call of the public API on a packaged bundle leads to, each time alike.
NOT_REACHED = {
    "unreliable",  # a block that remembers statistics learns these from every batch
    "evicted",  # takes 256 MB of written blocks
    "reading",  # takes a disk slower than a twentieth of a second
    "fallback",  # takes an engine that fails
    "resized",  # takes a bundle of several sizes
}
LEAST = 0.25  # of the calls, that are alike on another machine before a threshold is crossed
played_again = cache(replay)


@pytest.mark.parametrize("name", names())
def test_what_is_played_again_is_as_recorded(name):
    found = played_again(name)
    assert found.differences == []
    assert found.calls >= found.total * (1 if found.exact else LEAST)


@pytest.mark.parametrize("name", names())
def test_no_call_runs_more_graphs_than_recorded(name):
    runs = played_again(name).runs
    assert [call for call, (most, now) in enumerate(runs) if now > most] == []
    assert sum(most for most, _ in runs) > 0


def test_traces_tell_of_every_kind_of_event_that_can_be_reached():
    kinds = set(EventKind)
    told = {kind for name in names() for call in read(name)[0]["calls"]
            for kind in call["expect"].get("events", ())}  # fmt: skip
    assert kinds > NOT_REACHED
    assert told == kinds - NOT_REACHED


def test_traces_play_every_call_and_bundle():
    traces = [read(name)[0] for name in names()]
    calls = list(chain.from_iterable(trace["calls"] for trace in traces))
    assert {call["call"] for call in calls} == {
        "open", "close", "step", "predict", "learn", "forget_class", "rename_class", "classes",
        "rollback", "flush", "set", "hide state", "show state",
    }  # fmt: skip
    assert {call["to"] for call in calls if call["call"] == "rollback"} > {
        "commit",
        "source",
        "zero",
    }
    packaged = {str(path.relative_to(ROOT)) for folder in ("edgemem", "examples")
                for path in (ROOT / folder).rglob("*.edgemem")}  # fmt: skip
    assert {trace["bundle"] for trace in traces} == packaged


def test_drawn_numbers_are_those_of_splitmix64():
    """The first numbers from seed 1234567, as its author's C code gives them."""
    expected = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert uniform(1234567, 3).tolist() == [(number >> 40) / (1 << 24) for number in expected]


def test_what_differs_is_told():
    trace, logits = read("contexts")
    played = [
        (dict(call["expect"]), logits[first : first + rows] if rows else None)
        for call in trace["calls"]
        for first, rows in [call["expect"].get("logits", (0, 0))]
    ]
    assert compared(trace, played, logits, exact=True).differences == []
    near, far = logits.copy(), logits.copy()
    near[100] += 1e-6
    far[100] += 1e-3
    (difference,) = compared(trace, played, near, exact=True).differences
    assert "logits" in difference
    assert compared(trace, played, near, exact=False).differences == []
    assert len(compared(trace, played, far, exact=False).differences) == 1
    played[50][0]["events"] = ["reset"]
    (difference,) = compared(trace, played, logits, exact=True).differences
    assert "call 50" in difference and "reset" in difference
    assert compared(trace, played, logits, exact=False).calls == 50
