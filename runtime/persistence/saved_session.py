"""A session as a commit holds it, and going on from one, as far as it is intact and fits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgemem.block import Arrays, Block
from edgemem.bundle.opening import Bundle
from edgemem.errors import StateError
from edgemem.runtime.classes.class_table import TABLE, ClassTable, own_classes
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.guard import guard_rails
from edgemem.runtime.guard.escalation import MOST_RELAPSES, Escalation, Rung
from edgemem.runtime.guard.failure_indicators import Evidence
from edgemem.runtime.guard.familiar import Familiarity, seen_of
from edgemem.runtime.guard.frozen_share import SHARES
from edgemem.runtime.persistence.saved_contexts import load_contexts
from edgemem.runtime.persistence.snapshot_checks import CLASSES, Checked, checked_snapshot
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.runtime.session import Counters, Session, Share, Watch, new_session

if TYPE_CHECKING:
    from edgemem.state.store import State

EVIDENCE, SEEN = "guard.evidence", "guard.seen"  # names of arrays in a snapshot


@dataclass(frozen=True)
class Found:
    """What there is to go on from.

    checked: the newest commit that can be taken; None without any. damage: what was passed over, in
    words.
    """

    checked: Checked | None = None
    damage: tuple[str, ...] = ()


def saved_arrays(session: Session, bundle: Bundle, *, slots: bool) -> Arrays:
    """Arrays of a session for a snapshot, but those of contexts. slots: the optimiser's, too."""
    evidence = session.watch.evidence
    return {
        **session.block.under("block"),
        **session.good.under("good"),
        **(session.slots.under("opt") if slots else {}),
        EVIDENCE: np.asarray([evidence.agreed, evidence.against], np.float32),
        SEEN: session.familiarity.seen.to_array(),
        **({} if bundle.manifest.teaching is None else {
            TABLE: session.all_classes(bundle).to_array()
        }),
    }  # fmt: skip


def saved_counters(session: Session) -> dict[str, int]:
    """Whole numbers of a session for a snapshot, but those of contexts and of the ring."""
    escalation = session.watch.escalation
    return {
        **asdict(session.counters),
        "guard.rung": int(escalation.rung),
        "guard.calm": escalation.calm,
        "guard.relapses": escalation.relapses,
        "guard.checked": session.watch.checked,
        "guard.share": round(SHARES * session.share.of_frozen),
        "guard.batches": session.share.batches,
        "guard.looks": session.familiarity.looks,
        "guard.familiar": int(session.familiarity.holds),
    }


def find(state: State | None, bundle: Bundle, path: Path) -> Found:
    """The newest commit with a sound block, and with names of classes if any commit has those.

    Nothing changes.

    path: of the state file.

    Raises:
        StateError: the file cannot be read at present.
    """
    damage, nameless = list[str](), Found()
    if state is not None and (lost := state.lost) is not None:
        damage.append(f"{path}: {lost.reason}")
    for snapshot in () if state is None else state.snapshots():
        damage += [f"{path}: {text}" for text in snapshot.damage]
        try:
            checked = checked_snapshot(snapshot, bundle.manifest, path)
        except StateError as error:
            damage.append(f"{path}: {error.reason}. This commit is passed over")
            continue
        told = "".join(snapshot.damage)
        misfits = [
            f"{path}: {name} of a commit does not fit"
            for name in checked.lost
            if f"(its {name}" not in told
        ]
        found = Found(checked, (*damage, *misfits))
        if CLASSES not in checked.lost:
            return found
        damage += misfits
        nameless = found if nameless.checked is None else nameless
    if nameless.checked is None and damage:
        damage.append(f"{path}: no commit is intact. The written blocks are taken")
        return Found(None, tuple(damage))
    return nameless


def resumed(
    before: Session, found: Found, files: ContextFiles, *, adapting: bool
) -> tuple[Session, Events]:
    """The session that a commit holds, and the written blocks even without one; what was damaged.

    before: gives counters, and frames that wait. adapting: whether batches are looked at at all.

    Raises:
        StateError: the file cannot be read.
    """
    bundle, checked = files.bundle, found.checked
    generic = bundle.generic
    # Equal blocks become one object again, for the same values must not be tried twice.
    block = generic if checked is None else _shared(checked.block, generic)
    table = own_classes(bundle.manifest) if checked is None else checked.table
    arrays, counters = ({}, {}) if checked is None else (checked.arrays, checked.counters)
    session = new_session(bundle, follows=before.contexts.follows)
    session = replace(session, counters=before.counters, pending=before.pending)
    loaded = load_contexts(
        before.contexts, arrays, counters, None if checked is None else block, table.taught, files
    )
    session = session.taking(block, bundle)
    if checked is not None:
        session = replace(session, good=_shared(checked.good, generic, block), slots=checked.slots)
    if loaded.block is not None:
        session = session.taking(_shared(loaded.block, generic), bundle)
    session = replace(
        session,
        contexts=loaded.contexts,
        classes=_with_imported(
            table, loaded.contexts.root, bundle, follows=before.contexts.follows
        ),
        watch=_watch(arrays, counters),
        entropy=before.entropy,
        lookahead=before.lookahead.dropped(),
    )
    if adapting:  # else what was found of some batch would hold for ever
        session = _with_opinion(session, arrays, counters, bundle)
    text = (Event(EventKind.DAMAGED, text, logging.WARNING) for text in found.damage)
    return session, (*loaded.events, *text)


def started_again(before: Session, start: Block, files: ContextFiles) -> Session:
    """The session without anything that was learnt, going on from a block."""
    session = replace(
        before.taking(start, files.bundle),
        classes=own_classes(files.bundle.manifest),
        contexts=context_blocks.started_again(before.contexts, start, files),
        lookahead=before.lookahead.dropped(),
    )
    return guard_rails.starting_again(session, files)


def counted(session: Session, checked: Checked) -> Session:
    """With the counters of a commit, and the frames that waited."""
    known = {field.name: checked.counters.get(field.name, 0) for field in fields(Counters)}
    return replace(session, counters=Counters(**known), pending=checked.pending)


def _watch(arrays: Arrays, counters: Mapping[str, int]) -> Watch:
    rung = Rung(min(max(counters.get("guard.rung", 0), Rung.LEARN), Rung.FROZEN))
    relapses = min(max(counters.get("guard.relapses", 0), 0), MOST_RELAPSES)
    escalation, evidence = Escalation(rung, counters.get("guard.calm", 0), relapses), Evidence()
    held = arrays.get(EVIDENCE)
    if held is not None and held.shape == (2,):
        evidence = Evidence(*held.tolist())
    return Watch(escalation, counters.get("guard.checked", 0), evidence)


def _with_opinion(
    session: Session, arrays: Arrays, counters: Mapping[str, int], bundle: Bundle
) -> Session:
    """With what is known of the frozen model beside the block."""
    share = min(max(counters.get("guard.share", 0), 0), SHARES) / SHARES
    seen = seen_of(arrays.get(SEEN), bundle.manifest.key, bundle.manifest.classes)
    holds = bool(counters.get("guard.familiar", 0))
    return replace(
        session,
        share=Share(share, counters.get("guard.batches", 0)),
        familiarity=Familiarity(seen, counters.get("guard.looks", 0), holds),
    )


def _with_imported(table: ClassTable, root: Block, bundle: Bundle, *, follows: bool) -> ClassTable:
    """With the arrays of classes that were imported, which no lesson here has changed."""
    teaching = bundle.manifest.teaching
    if teaching is None or not follows:
        return table
    imported = {name for name in teaching.arrays if root[name].any()}
    return replace(table, taught=tuple(sorted({*table.taught, *imported})))


def _shared(block: Block, *others: Block) -> Block:
    """The first of the others with the same values, or the block itself."""
    return next((other for other in others if other.has_values_of(block)), block)
