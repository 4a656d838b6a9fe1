"""The loop: frames in, predictions out, and a block that adapts in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.errors import InputError, StateError
from edgemem.manifest import Plan
from edgemem.runtime.backends.protocol import Backend
from edgemem.runtime.commits import Commits
from edgemem.runtime.consolidation import Outlook, Probe, outlook
from edgemem.runtime.contract import stripped
from edgemem.runtime.frames import checked
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.guard import Guard, tell
from edgemem.runtime.learner import COUNTERS, Learner, Logits
from edgemem.runtime.lookout import Lookout
from edgemem.runtime.result import Event, Result, make_result
from edgemem.runtime.ring import Ring
from edgemem.runtime.schedule import Schedule, When
from edgemem.runtime.settings import known_parameters
from edgemem.runtime.snapshots import carried, checked_snapshot, shared
from edgemem.runtime.symptoms import is_still
from edgemem.snapshot import Snapshot

if TYPE_CHECKING:
    from edgemem.runtime.backends.choice import Engine
    from edgemem.runtime.background import Background
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.state import State

GENERIC = "generic"
PROBE_EVERY = 2  # one of so many frames of a batch takes part in the probe of a consolidation


class Runtime:
    """Predicts and adapts with one bundle. Made by `edgemem.open`; for one thread.

    bundle: the verified bundle. engine: what runs its graphs, and why; None = a backend without a
    choice. plan: how its step runs; None = as the first plan. counters:
    frames, steps, updates, unreliable, skipped and restored since the state file was new.
    """

    def __init__(  # noqa: PLR0913 - those of `edgemem.open`
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        state: State | None = None,
        adapt: bool = True,
        adapt_when: When = 1,
        contexts: bool = True,
        hyper_parameters: Mapping[str, float] | None = None,
        plan: Plan | None = None,
        background: Backend | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.bundle, self._state = bundle, state
        self.plan, self.engine = plan, engine
        manifest = bundle.manifest
        self._adapting, self._schedule = adapt, Schedule(adapt_when)
        parameters = known_parameters(manifest, hyper_parameters or {})
        step = "adapt" if plan is None else plan.graph
        self._graphs = Graphs(bundle, backend, step, background)
        self._learner = Learner(bundle, self._graphs, parameters)
        self._guard = Guard(bundle, self._graphs, self._learner)
        self._behind: Background | None = None
        if background is not None:
            from edgemem.runtime.background import Background  # threads take a while to load

            self._behind = Background()
        self._ring = Ring(manifest.frames.batch, manifest.frames.shape)
        self._lookout = Lookout(bundle, self._graphs, self._ring)
        self._follows_contexts = contexts and adapt and manifest.source is not None
        self._memory: ContextMemory | None = None
        self._commits = None if state is None else Commits(state, manifest)
        self._notices = [] if engine is None else engine.events()
        if state is None and not manifest.levels:
            return  # nothing to go on from, and no file that might be damaged
        try:
            self._memory = self._new_memory() if self._follows_contexts else None
            self._continue(state.read() if state is not None else None)
        except BaseException:
            if self._memory is not None:
                self._memory.close()
            raise

    @property
    def hyper_parameters(self) -> dict[str, float]:
        """Scalars by name; change the values at will."""
        return self._learner.hyper_parameters

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing happened since the state file was new."""
        return self._learner.counters

    def predict(self, frames: Array, *, frozen: bool = False) -> Result:
        """Predict without changing anything.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number.
            frozen: answer as the frozen model, whatever has been learnt.

        Raises:
            InputError: frames that do not fit the bundle.
        """
        x, events = self._checked(frames), list[Event]()
        if frozen:
            logits = [self._graphs.frozen(chunk) for chunk in self._chunks(x)]
            return make_result(np.concatenate(logits), GENERIC, events, self._drift)
        recent, logits = self._ring.last(self._ring.count), []
        for chunk in self._chunks(x):
            block, n = self._lookout.chosen(self._learner.block, len(chunk))
            recent = np.concatenate([recent, chunk])[-self._ring.size :]
            logits.append(self._learner.answer(recent[-n:], len(chunk), events, block))
        return make_result(np.concatenate(logits), self._context, events, self._drift)

    def step(self, frames: Array) -> Result:
        """Predict, then adapt whenever a full batch of frames has been gathered.

        Every prediction returned was made BEFORE the update that its frame takes part in. Frames
        that do not fill a batch wait in the ring buffer; they are predicted at once all the same.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number.

        Raises:
            InputError: frames that do not fit the bundle; nothing changes then.
        """
        x, events, logits, position = self._checked(frames), self._notices, [], 0
        if self._adapting and len(x) >= self._ring.missing:
            self._graphs.open_step()  # before anything changes
        self._take_learnt(events)
        self._notices = []
        while position < len(x):
            take = min(len(x) - position, self._ring.missing)
            self._changed = True
            self._ring.push(x[position : position + take])
            self.counters["frames"] += take
            position += take
            due = self._ring.missing == 0
            if due:
                self._ring.pending = 0
                self._lookout.reset()
            if due and self._adapting:
                logits.append(self._adapt(events)[-take:])
                self._commit_if_due(events)
            else:
                self._lookout.look(take, self._memory)
                block, n = self._lookout.chosen(self._learner.block, take)
                logits.append(
                    self._learner.answer(
                        self._ring.last(min(n, self._ring.count)), take, events, block
                    )
                )
        return make_result(np.concatenate(logits), self._context, events, self._drift)

    def rollback(self, to: Literal["commit", "source", "zero"] = "commit") -> None:
        """Take an earlier block.

        "commit": as last written to the state file (or as at opening, without one).
        "source": as exported. "zero": nothing learnt, warm-up included; the frozen weights with
        the bundle's own statistics. The optimiser starts afresh, except at "commit".
        """
        self._require_open()
        if to not in ("commit", "source", "zero"):
            raise InputError(f"rollback target {to!r}", "is unknown", "Use commit, source or zero")
        snapshot = self._state.read() if to == "commit" and self._state is not None else None
        if snapshot is not None:
            self._checked_snapshot(snapshot)
        if self._behind is not None:
            self._behind.drop()  # what it learnt is rolled back, too
        start = self._graphs.zero if to == "zero" else self.bundle.generic
        if to == "commit" and self._state is not None:
            self._take_blocks(snapshot)
        else:
            self._learner.take(start)
            if self._contexts is not None:
                self._contexts.reset(start)
            self._guard.reset()
        self._changed = True

    def flush(self) -> None:
        """Commit block, optimiser, recent frames and counters to the state file, if there is one.

        Raises:
            StateError: the disk refuses; the last commit is still there.
        """
        self._require_open()
        try:
            self._take_learnt(self._notices, wait=True)
        finally:  # a step that failed takes nothing else with it
            self._commit("flush")

    def _commit(self, why: str) -> None:
        if self._commits is None:
            return
        if self._contexts is not None:
            self._learner.take(self._contexts.settle(self._notices))
        self._commits.write(
            self._learner, self._ring, self._guard, self._contexts, self._notices, why
        )
        self._changed = False

    def close(self) -> None:
        """Flush what changed and close. Safe to call twice."""
        if self._closed:
            return
        try:
            if self._changed or (self._behind is not None and self._behind.busy):
                self.flush()
        finally:
            self._closed = True
            if self._behind is not None:
                self._behind.close()
            if self._memory is not None:
                self._memory.close()
            if self._state is not None:
                self._state.close()

    _closed = False
    _changed = False

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _contexts(self) -> ContextMemory | None:
        """What is known of contexts, made when first needed: a prediction need not wait for it."""
        if self._follows_contexts and self._memory is None:
            self._memory = self._new_memory()
            self._memory.load({}, {}, None)
        return self._memory

    def _new_memory(self) -> ContextMemory:
        from edgemem.runtime.context_memory import ContextMemory

        return ContextMemory(self.bundle, self._state)

    @property
    def _context(self) -> str:
        return GENERIC if self._memory is None else self._memory.name

    @property
    def _drift(self) -> float | None:
        if self._memory is None:
            return 0.0 if self._follows_contexts else None
        return self._memory.drift

    @property
    def bytes_written(self) -> int:
        """Bytes written to the state file since opening."""
        return 0 if self._state is None else self._state.bytes_written

    def _checked(self, frames: Array) -> NDArray[np.float32]:
        self._require_open()
        return checked(frames, self.bundle.manifest.frames)

    def _chunks(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [x[i : i + self._ring.size] for i in range(0, len(x), self._ring.size)]

    def _adapt(self, events: list[Event]) -> Logits:
        """Logits of all frames of the ring, from before the step that follows if one is due."""
        window = self._ring.last(self._ring.size)
        if is_still(window):
            tell(events, "still", "all frames of the batch are the same", logging.INFO)
            return self._learner.answer(window, len(window), events)
        self._follow(window, events)
        return self._guard.second_opinion(window, self._adapted(window, events), events)

    def _adapted(self, window: Frames, events: list[Event]) -> Logits:
        """The block's own logits; adapts it, if all agrees."""
        batch = self.counters["frames"] // self._ring.size - 1
        sound = self._guard.may_learn(window, self._contexts, events)
        drifting = self._contexts is None or self._contexts.drifting
        if not sound or not self._schedule.due(batch, drifting):
            return self._learner.own(window, events)
        if self._behind is not None:
            return self._adapt_behind(self._behind, window, events)
        began = time.monotonic()
        outputs = self._learner.step(window)
        self._schedule.spend(time.monotonic() - began)
        return self._learn(window, outputs, events)

    def _adapt_behind(self, behind: Background, window: Frames, events: list[Event]) -> Logits:
        """Predict; take what the last step learnt, and start the next one, if none is running."""
        self._take_learnt(events)
        if not behind.busy:
            window = window.copy()  # the ring goes on filling
            block, slots = self._learner.block, self._learner.slots
            parameters = dict(self.hyper_parameters)
            behind.start(
                window, block, lambda: self._graphs.adapt(window, block, slots, parameters)
            )
        return self._learner.own(window, events)

    def _take_learnt(self, events: list[Event], *, wait: bool = False) -> None:
        """Go on with what a step in the background learnt, unless its block was left meanwhile."""
        learnt = None if self._behind is None else self._behind.take(wait=wait)
        if learnt is not None:
            self._schedule.spend(learnt.seconds)
        if learnt is not None and learnt.block is self._learner.block:
            self._learn(learnt.window, learnt.outputs, events)

    def _learn(self, window: Frames, outputs: Arrays, events: list[Event]) -> Logits:
        return self._learner.learn(window, outputs, self._contexts, events)

    def _follow(self, window: NDArray[np.float32], events: list[Event]) -> None:
        """Take the block of the context that the frames come from."""
        if self._contexts is None:
            return
        key = self._graphs.key(window)
        if not is_finite({"": key}):
            return
        context, probe = self._contexts.name, self._probe(window[::PROBE_EVERY])
        arrived = self._contexts.arrive(key, self._learner.block, probe, events)
        if arrived is not None:
            self._learner.take(arrived)
            self._guard.arrived()
        if self._commits is not None:
            self._commits.moved |= self._contexts.name != context

    def _probe(self, window: NDArray[np.float32]) -> Probe:
        """Judges blocks by frames, beside the frozen model."""
        frozen: list[NDArray[np.int64]] = []

        def look(block: Arrays) -> Outlook:
            if not frozen:
                frozen.append(self._graphs.frozen(window).argmax(1))
            logits = self._graphs.predict(window, block, self.hyper_parameters)
            return outlook(logits, frozen[0])

        return look

    def _commit_if_due(self, events: list[Event]) -> None:
        """Commit after a change of context, if that is not too often."""
        steps = self.counters["steps"]
        if self._commits is None or not self._commits.due(steps):
            return
        if self._contexts is not None and self._contexts.reading:
            return
        try:
            self._commit("context change")
        except StateError as error:  # predictions must not be lost with it
            self._commits.step = steps
            events.append(Event("unwritten", str(error)))

    def _continue(self, snapshot: Snapshot | None) -> None:
        """Go on from a snapshot, and from written blocks even without one."""
        if snapshot is not None:
            ring, self._ring.pending = self._checked_snapshot(snapshot)
            pending = self._ring.pending
            self._ring.push(ring)
            self._ring.pending = pending
            self.counters.update({name: snapshot.counters.get(name, 0) for name in COUNTERS})
            if self._commits is not None:
                self._commits.step = self.counters["steps"]
        self._take_blocks(snapshot)

    def _checked_snapshot(self, snapshot: Snapshot) -> tuple[Array, int]:
        assert self._state is not None, "it came from there"
        return checked_snapshot(snapshot, self.bundle.manifest, self._state.path)

    def _take_blocks(self, snapshot: Snapshot | None) -> None:
        """Take what a snapshot holds; nothing changes if the written blocks do not fit."""
        generic, changed = self.bundle.generic, None
        arrays, counters = ({}, {}) if snapshot is None else (snapshot.arrays, snapshot.counters)
        # Equal blocks become one object again: `Learner` must not try the same values twice.
        block = shared(stripped("block", arrays), generic) if arrays else generic
        if self._contexts is not None:
            known = block if arrays else None
            changed, noticed = self._contexts.load(arrays, counters, known)
            self._notices += noticed
        learner = self._learner
        if arrays:
            good = shared(stripped("good", arrays), generic, block)
            learner.go_on(block, good, stripped("opt", arrays))
        else:
            learner.take(block)
        learner.take(None if changed is None else shared(changed, generic))
        if self._contexts is None and self._commits is not None:
            self._commits.carried = carried(arrays, counters)
        self._guard.load(counters)

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("runtime", "is closed", "Open the bundle again")
