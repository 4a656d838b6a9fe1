"""The loop: frames in, predictions out, and a block that adapts in between."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.errors import InputError
from edgemem.runtime.backend import Backend, Graph
from edgemem.runtime.consolidation import Outlook, Probe, outlook
from edgemem.runtime.context_memory import ContextMemory
from edgemem.runtime.contract import check_adapt, check_key, check_predict, prefixed, stripped
from edgemem.runtime.frames import checked
from edgemem.runtime.policy import Verdict, judge
from edgemem.runtime.result import Event, Result, make_result
from edgemem.runtime.ring import Ring
from edgemem.runtime.settings import known_parameters
from edgemem.runtime.snapshots import checked_snapshot, packed_frames, shared
from edgemem.state import Snapshot, State

Logits = NDArray[np.float32]
GENERIC = "generic"
COUNTERS = ("frames", "steps", "updates", "unreliable", "skipped", "restored")
CHECKS = {"predict": check_predict, "adapt": check_adapt, "key": check_key}
# Flash wears out. On a change of context a commit comes at most so often in steps, and only if all
# commits together stay below so many bytes per 1,000 frames.
COMMIT_STEPS, COMMIT_BYTES = 16, 1 << 20
PROBE_EVERY = 2  # one of so many frames of a batch takes part in the probe of a consolidation
UNRELIABLE = Event("unreliable", "no frame of the batch was reliable enough to learn from")
SKIPPED = Event("skipped", "the step gave non-finite values; the block stays as it was")
FROZEN = Event("frozen", "the block gives non-finite logits; the frozen model answered")


class Runtime:
    """Predicts and adapts with one bundle. Made by `edgemem.open`; for one thread.

    bundle: the verified bundle. counters: frames, steps, updates, unreliable, skipped and
    restored since the state file was new. hyper_parameters: scalars by name; change them at will.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        state: State | None = None,
        adapt: bool = True,
        contexts: bool = True,
        hyper_parameters: Mapping[str, float] | None = None,
    ) -> None:
        self.bundle, self._backend, self._state = bundle, backend, state
        manifest = bundle.manifest
        self._adapting = adapt
        self.hyper_parameters = known_parameters(bundle.manifest, hyper_parameters or {})
        self._frozen_parameters = {n: h.frozen for n, h in manifest.hyper_parameters.items()}
        self._zero = manifest.block.zero()
        self._block = self._good = bundle.generic
        self._slots = manifest.slots.zero()
        self._ring = Ring(manifest.frames.batch, manifest.frames.shape)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._predict_graph = self._open_graph("predict")
        self._adapt_graph: Graph | None = None
        self._key_graph: Graph | None = None
        known = contexts and adapt and manifest.source is not None
        self._contexts = ContextMemory(bundle, state) if known else None
        self._committed_step = 0
        self._entropy = 0.0
        self._notices: list[Event] = []
        if state is not None and (snapshot := state.read()) is not None:
            self._load(snapshot, state)

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
            logits = [self._frozen(chunk) for chunk in self._chunks(x)]
            return make_result(np.concatenate(logits), GENERIC, events, self._drift)
        size, recent = self._ring.size, self._ring.last(self._ring.count)
        logits = []
        for chunk in self._chunks(x):
            window = np.concatenate([recent, chunk])[-size:] if self._companions else chunk
            logits.append(self._predict_or_frozen(window, len(chunk), events))
            recent = window
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
        if self._adapting and self._adapt_graph is None and len(x) >= self._ring.missing:
            self._adapt_graph = self._open_graph("adapt")  # before anything changes
            self._key_graph = self._open_graph("key") if self._contexts is not None else None
        self._notices = []
        self._changed = True
        while position < len(x):
            take = min(len(x) - position, self._ring.missing)
            self._ring.push(x[position : position + take])
            position += take
            due = self._ring.missing == 0
            if due:
                self._ring.pending = 0
            if due and self._adapting:
                logits.append(self._adapt(events)[-take:])
            else:
                n = self._ring.count if self._companions else take
                logits.append(self._predict_or_frozen(self._ring.last(n), take, events))
        self.counters["frames"] += len(x)
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
        self._changed = True
        self._block = self._good = self._zero if to == "zero" else self.bundle.generic
        if self._contexts is not None:
            self._contexts.reset()  # a commit brings its own back
        self._slots = self.bundle.manifest.slots.zero()
        if to == "commit" and self._state is not None:
            snapshot = self._state.read()
            if snapshot is not None:
                self._take_blocks(snapshot)

    def flush(self) -> None:
        """Commit block, optimiser, recent frames and counters to the state file, if there is one.

        Raises:
            StateError: the disk refuses; the last commit is still there.
        """
        self._require_open()
        self._commit("flush")

    def _commit(self, why: str) -> None:
        if self._state is None:
            return
        if self._contexts is not None:
            self._take(self._contexts.settle(self._notices))
        recent = self._ring.last(self._ring.count)
        arrays = {
            **prefixed("block", self._block),
            **prefixed("good", self._good),
            **prefixed("opt", self._slots),
            "ring": packed_frames(recent, self.bundle.manifest.frames.uint8_scale),
        }
        counters = {**self.counters, "pending": self._ring.pending}
        before = self._state.bytes_written
        with self._state.transaction():
            if self._contexts is not None:
                steps, entropy = self.counters["steps"], self._entropy
                self._notices += self._contexts.write(self._block, steps, entropy, why)
                arrays |= self._contexts.arrays()
                counters |= self._contexts.counters()
            self._state.write(Snapshot(arrays, counters))
        self._changed, self._committed_step = False, self.counters["steps"]
        self._commit_bytes = self._state.bytes_written - before

    def close(self) -> None:
        """Flush what changed and close. Safe to call twice."""
        if self._closed:
            return
        try:
            if self._changed:
                self.flush()
        finally:
            self._closed = True
            if self._contexts is not None:
                self._contexts.close()
            if self._state is not None:
                self._state.close()

    _closed = False
    _changed = False
    _commit_bytes = 0

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
    def _context(self) -> str:
        return GENERIC if self._contexts is None else self._contexts.name

    @property
    def _drift(self) -> float | None:
        return None if self._contexts is None else self._contexts.drift

    @property
    def bytes_written(self) -> int:
        """Bytes written to the state file since opening."""
        return 0 if self._state is None else self._state.bytes_written

    @property
    def _companions(self) -> bool:
        return self.bundle.manifest.frames.companions

    def _checked(self, frames: Array) -> NDArray[np.float32]:
        self._require_open()
        return checked(frames, self.bundle.manifest.frames)

    def _chunks(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [x[i : i + self._ring.size] for i in range(0, len(x), self._ring.size)]

    def _adapt(self, events: list[Event]) -> Logits:
        """One adaptation step on the ring; logits of all its frames, from before the update."""
        graph = self._adapt_graph
        assert graph is not None, "step opens it before a batch is full"
        window = self._ring.last(self._ring.size)
        self._follow(window, events)
        outputs = graph.run(
            {
                "x": window,
                **prefixed("block", self._block),
                **prefixed("opt", self._slots),
                **self._scalars(self.hyper_parameters, graph),
            }
        )
        self.counters["steps"] += 1
        self._entropy = float(outputs.get("stat.entropy", self._entropy))
        verdict = judge(outputs)
        if verdict is Verdict.KEEP and self._contexts is not None and self._contexts.reading:
            return outputs["logits"]  # of the generic block, which is not the one to learn in
        if verdict is Verdict.RESTORE:
            return self._restore(window, events)
        if verdict is Verdict.SKIP:
            self._slots = self.bundle.manifest.slots.zero()
            self._count("skipped", SKIPPED, events)
        elif verdict is Verdict.UNRELIABLE:
            self._count("unreliable", UNRELIABLE, events)
        else:
            self._good, self._block = self._block, stripped("next.block", outputs)
            self._slots = stripped("next.opt", outputs)
            self._count("updates", Event("adapted", f"step {self.counters['steps']}"), events)
        return outputs["logits"]

    def _follow(self, window: NDArray[np.float32], events: list[Event]) -> None:
        """Take the block of the context that the frames come from."""
        if self._contexts is None or self._key_graph is None:
            return
        key = self._key_graph.run({"x": window})["key"]
        if not is_finite({"": key}):
            return
        context, probe = self._contexts.name, self._probe(window[::PROBE_EVERY])
        self._take(self._contexts.arrive(key, self._block, probe, events))
        if self._contexts.name != context and self._may_commit():
            self._commit("context change")
            self._changed = True  # by the step that this belongs to

    def _take(self, block: Arrays | None) -> None:
        """Go on with another block, if there is one."""
        if block is not None:
            self._block = self._good = block
            self._slots = self.bundle.manifest.slots.zero()

    def _probe(self, window: NDArray[np.float32]) -> Probe:
        """Judges blocks by frames, beside the frozen model."""
        frozen: list[NDArray[np.int64]] = []

        def look(block: Arrays) -> Outlook:
            if not frozen:
                frozen.append(self._frozen(window).argmax(1))
            return outlook(self._run_predict(window, block, self.hyper_parameters), frozen[0])

        return look

    def _may_commit(self) -> bool:
        steps = self.counters["steps"] - self._committed_step
        frames = steps * self._ring.size
        return steps >= COMMIT_STEPS and COMMIT_BYTES * frames >= 1000 * self._commit_bytes

    def _restore(self, window: NDArray[np.float32], events: list[Event]) -> Logits:
        """The present block fails on these frames: back to the last good one, or the source."""
        last = self._good if self._good is not self._block else self.bundle.generic
        self._block = self._good = last
        self._slots = self.bundle.manifest.slots.zero()
        origin = "source" if last is self.bundle.generic else "last good"
        if self._contexts is not None and last is self.bundle.generic:
            self._contexts.reset()
        event = Event("restored", f"the loss was not finite; the {origin} block is back")
        self._count("restored", event, events)
        return self._predict_or_frozen(window, len(window), events)

    def _count(self, counter: str, event: Event, events: list[Event]) -> None:
        self.counters[counter] += 1
        events.append(event)

    def _predict_or_frozen(
        self, window: NDArray[np.float32], n: int, events: list[Event]
    ) -> Logits:
        """Logits of the last n frames of a window; the frozen model's if the block fails."""
        logits = self._run_predict(window, self._block, self.hyper_parameters)[-n:]
        if np.isfinite(logits).all():
            return logits
        events.append(FROZEN)
        return self._frozen(window)[-n:]

    def _frozen(self, window: NDArray[np.float32]) -> Logits:
        return self._run_predict(window, self._zero, self._frozen_parameters)

    def _run_predict(
        self, window: NDArray[np.float32], block: Arrays, scalars: Mapping[str, float]
    ) -> Logits:
        graph = self._predict_graph
        feeds = {"x": window, **prefixed("block", block), **self._scalars(scalars, graph)}
        return graph.run(feeds)["logits"]

    def _scalars(self, values: Mapping[str, float], graph: Graph) -> Arrays:
        names = {name: f"hp.{name}" for name in values}
        return {
            full: np.asarray(values[name], np.float32)
            for name, full in names.items()
            if full in graph.inputs
        }

    def _open_graph(self, name: str) -> Graph:
        manifest = self.bundle.manifest
        if name not in manifest.graphs:
            raise InputError(
                f"bundle {manifest.name!r}", f"has no {name!r} graph", "Open it with adapt=False"
            )
        thing = f"{self.bundle.path.name}/{manifest.graphs[name]}"
        graph = self._backend.open(self.bundle.graph_path(name))
        CHECKS[name](graph, manifest, thing)
        return graph

    def _load(self, snapshot: Snapshot, state: State) -> None:
        ring, pending = checked_snapshot(snapshot, self.bundle.manifest, state.path)
        self._take_blocks(snapshot)
        self._ring.push(ring)
        self._ring.pending = pending
        self.counters = {name: snapshot.counters.get(name, 0) for name in COUNTERS}
        self._committed_step = self.counters["steps"]

    def _take_blocks(self, snapshot: Snapshot) -> None:
        # Equal blocks become one object again: `_restore` must not try the same values twice.
        self._block = shared(stripped("block", snapshot.arrays), self.bundle.generic)
        self._good = shared(stripped("good", snapshot.arrays), self.bundle.generic, self._block)
        self._slots = stripped("opt", snapshot.arrays)
        if self._contexts is not None:
            loaded = self._contexts.load(snapshot.arrays, snapshot.counters, self._block)
            self._notices = loaded

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("runtime", "is closed", "Open the bundle again")
