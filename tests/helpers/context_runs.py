"""Runs of the demo's bundle that learn from every batch, and what they leave behind."""

from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
from opening import opened_with

from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.demo import BUNDLE
from edgemem.state.store import State
from edgemem.testing import notices_of, put_session, session_of

BATCH = 16


def opened(state=None, bundle=BUNDLE, **options):
    """A runtime to which every frame is reliable."""
    return opened_with(
        bundle, state, threads=1, hyper_parameters={"entropy_margin": 9.0}, **options
    )


def step_all(runtime, frames):
    """One result a batch."""
    return [runtime.step(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)]


def bright_and_dark(x):
    """Two contexts that are easy to tell, each twice."""
    dark = (0.2 * x + 0.6).astype(np.float32)
    return [x, dark, x, dark]


def events(results, kind):
    """Messages of all events of a kind."""
    return [event.message for result in results for event in result.events if event.kind == kind]


def known(runtime):
    """Names of the contexts that a runtime knows."""
    return {f"context-{number}" for number in session_of(runtime).contexts.policy.known}


def move_root(runtime, much=1e-4):
    """Give all contexts another root, as lessons do; the next commit writes it."""
    session, spec = session_of(runtime), runtime.bundle.manifest.block
    kept = session.contexts.kept
    learns = [array.name for array in spec.arrays if array.learns]
    root = kept.root + {name: np.full_like(kept.root[name], much) for name in learns}
    contexts = replace(session.contexts, kept=kept.with_root(root, "as if taught"))
    put_session(runtime, replace(session, contexts=contexts))


@contextmanager
def written(path):
    """The written blocks of a closed state file, to read or to change."""
    with closing(State(path, None)) as state:
        yield WrittenBlocks(state)


def blocks_of(path):
    """Record and arrays of every written block, all of them intact."""
    with written(path) as blocks:
        assert blocks.verify() == []
        return {r.id: blocks.read(r.id) for r in blocks.listing().records}


def assert_same_arrays(found, expected):
    """Bit for bit."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def assert_same_blocks(found, expected):
    """Places, counts and arrays of written blocks."""
    assert set(found) == set(expected)
    for name, (record, arrays) in expected.items():
        assert (found[name][0].path, found[name][0].count) == (record.path, record.count)
        assert_same_arrays(found[name][1], arrays)


def assert_same_logits(found, expected):
    """Names of contexts, and logits bit for bit."""
    assert [result.context for result in found] == [result.context for result in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def damaged(runtime):
    """What was damaged, as it was told."""
    return [event for event in notices_of(runtime) if event.kind == "damaged"]
