"""A session: what follows from its values, and that nothing of it changes."""

from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
from teachable import BATCH, CAPACITY, FEATURES, TAUGHT, frames_of, stream_of, write_bundle

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.runtime.guard.escalation import Escalation, Rung
from edgemem.runtime.guard.frozen_share import LEAST_SHARE
from edgemem.runtime.session import Counters, Session, Share, Watch, new_session
from edgemem.testing import session_of

CAT = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("session") / "t.edgemem"))


@pytest.fixture(scope="module")
def taught(bundle):
    """After steps and a lesson."""
    with edgemem.open(bundle.path, threads=1) as runtime:
        runtime.step(stream_of([0, 1], BATCH)[0])
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        return session_of(runtime)


def test_at_first_nothing_has_been_seen_or_learnt(bundle):
    session = new_session(bundle, follows=True)
    assert session.block is session.good is session.contexts.root is bundle.generic
    assert session.slots.has_values_of(bundle.manifest.slots.zero())
    assert asdict(session.counters) == dict.fromkeys(asdict(Counters()), 0)
    assert not session.taught and session.frozen_share == 0 and session.pending == 0


def test_a_step_leaves_the_session_before_it_as_it_was(bundle):
    with edgemem.open(bundle.path, threads=1) as runtime:
        before = session_of(runtime)
        held = {name: array.tobytes() for name, array in before.block.items()}
        assert runtime.step(stream_of([0, 1], BATCH)[0]).adapted
        runtime.learn(frames_of(CAT, 3), ["cat"] * 3)
        assert session_of(runtime) is not before
    assert before.counters == Counters() and not before.taught
    assert {name: array.tobytes() for name, array in before.block.items()} == held
    with pytest.raises(FrozenInstanceError):
        before.pending = 1


def test_counting_adds_up_and_makes_another(bundle):
    session = new_session(bundle, follows=False)
    after = session.counting(frames=3, steps=1).counting(frames=2)
    assert (after.counters.frames, after.counters.steps) == (5, 1)
    assert session.counters == Counters() and after.block is session.block


def test_what_labelled_frames_changed_is_taught_and_stays_when_steps_are_given_up(bundle, taught):
    assert set(taught.taught) == {"prototypes.sums", "prototypes.frames"} < set(TAUGHT)
    source, still = taught.source(bundle), taught.without_steps(bundle)
    for name in taught.taught:
        assert taught.block[name].any()
        assert source[name] is still[name] is taught.block[name]
    assert taught.block["shift"].any()  # follows a gradient
    assert not source["shift"].any() and not still["shift"].any()
    assert taught.block["remembered_frames"] > 0
    assert source["remembered_frames"] == 0  # belongs to its context
    assert still["remembered_frames"] is taught.block["remembered_frames"]


def test_another_block_is_taken_as_a_sound_one_and_the_optimiser_starts_afresh(bundle, taught):
    other = taught.block.replace({"shift": np.ones(FEATURES, np.float32)})
    after = taught.taking(other, bundle)
    assert after.block is after.good is other
    assert after.slots.has_values_of(bundle.manifest.slots.zero())
    assert isinstance(after, Session) and after.counters is taught.counters


def test_only_the_guard_rails_give_the_frozen_model_all_of_the_answer(bundle):
    session = new_session(bundle, follows=False)
    for share in (0.0, LEAST_SHARE, 0.5, 1.0):
        shared = replace(session, share=Share(share))
        assert 0 <= shared.frozen_share < 1
        for rung in Rung:
            stands = replace(shared, watch=Watch(Escalation(rung)))
            assert (stands.frozen_share == 1) == (rung is Rung.FROZEN)


def test_classes_that_only_the_block_knows_have_names_too(bundle, taught):
    assert taught.all_classes(bundle) is taught.classes
    sums = np.zeros((CAPACITY, FEATURES), np.float32)
    sums[4] = 1
    imported = replace(taught, block=taught.block.replace({"prototypes.sums": sums}))
    assert imported.all_classes(bundle).names[4] == "class-4"
    assert 4 not in imported.classes.names
