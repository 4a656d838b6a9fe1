"""What a commit holds of contexts besides the written blocks, and going on from both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgemem.block import Arrays, Block
from edgemem.runtime.contexts.context_blocks import ContextBlocks, asking_again, standing_anew
from edgemem.runtime.contexts.context_files import ContextFiles, Loaded
from edgemem.runtime.contexts.recognition import NONE
from edgemem.runtime.persistence.context_snapshot import contexts_of, to_arrays, to_counters
from edgemem.runtime.result import Event, EventKind, Events
from edgemem.state.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class LoadedContexts:
    """block: the one to go on with where that is not the commit's."""

    contexts: ContextBlocks
    block: Block | None = None
    events: Events = ()


def saved_contexts(contexts: ContextBlocks, files: ContextFiles) -> Snapshot:
    """For a commit, after its blocks were written.

    Where rows are still being read the visit is not told: it begins anew.
    """
    policy = contexts.policy
    told = replace(policy, present=NONE) if contexts.reading else policy
    return Snapshot(to_arrays(policy), to_counters(told) | _versions(told.present, files))


def load_contexts(
    before: ContextBlocks,
    arrays: Arrays,
    counters: Mapping[str, int],
    block: Block | None,
    taught: Collection[str],
    files: ContextFiles,
) -> LoadedContexts:
    """Go on from a commit, its block (None: there is no commit) and the written blocks.

    arrays: checked, see `snapshot_checks`. taught: names of those that labels have changed.

    Raises:
        StateError: the file cannot be read.
    """
    if not before.follows or not files.has_state:
        return LoadedContexts(before)
    loaded = files.load(files.source.mean.size)
    usable, events = _usable(loaded, files)
    policy = contexts_of(arrays, counters, loaded.records, usable)
    contexts = replace(before, kept=loaded.kept, policy=policy)
    contexts, more = asking_again(contexts, files)
    events = loaded.events + events + more
    now = _versions(policy.present, files)
    if block is None or any(counters.get(n, v) != v for n, v in now.items()):
        contexts, standing, more = standing_anew(contexts, files)
        events += more
        if block is not None:
            text = f"the written blocks have changed; {contexts.name} is taken"
            events += (Event(EventKind.CONTEXT, text),)
        return LoadedContexts(contexts, standing, events)
    if policy.present == NONE:
        contexts = _root_from(contexts, block, taught, files)
    return LoadedContexts(contexts, None, events)


def carried(arrays: Arrays, counters: Mapping[str, int]) -> Snapshot:
    """What a runtime that tells no contexts apart keeps for one that does."""
    names = [name for name in arrays if name.startswith("contexts.")]
    return Snapshot(
        {name: arrays[name] for name in names},
        {"opened": counters["opened"], "present": -1} if "opened" in counters else {},
    )


def _usable(loaded: Loaded, files: ContextFiles) -> tuple[set[int], Events]:
    """Contexts whose shipped rows are in this bundle; the others are told."""
    usable, events = set[int](), list[Event]()
    for number, record in loaded.records.items():
        path = loaded.kept.paths[number]
        if not path or (files.rows is not None and files.rows.has(path)):
            usable.add(number)
            continue
        text = f"{record.id} stands on {record.path}, which is not in this bundle"
        events.append(Event(EventKind.DAMAGED, text, logging.WARNING))
    return usable, tuple(events)


def _versions(present: int, files: ContextFiles) -> dict[str, int]:
    """Versions of the written root and leaf, as far as these are not damaged."""
    leaf = files.version(present) if present != NONE else 0
    found = {"version.root": files.version(None), "version.leaf": leaf}
    return {name: version for name, version in found.items() if version is not None}


def _root_from(
    contexts: ContextBlocks, block: Block, taught: Collection[str], files: ContextFiles
) -> ContextBlocks:
    """With what was taught while contexts were not told apart.

    The root has all of it then, so leaves give up their part, which would count twice.
    """
    root, told = contexts.root, block.part(taught)
    if all(np.array_equal(root[name], told[name]) for name in told):
        return contexts
    kept = contexts.kept.with_root(root.replace(told), "taught without contexts")
    for number in contexts.policy.known:
        leaf, _ = files.leaf(kept, number)
        kept = kept.with_leaf(number, leaf.replace(told.zeros()))
    return replace(contexts, kept=kept)
