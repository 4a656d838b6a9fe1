"""The loop: frames in, predictions out, and a block that adapts in between."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle import Bundle
from edgemem.errors import InputError
from edgemem.manifest import Plan
from edgemem.runtime.adaptation import Adaptation
from edgemem.runtime.backends.protocol import Backend
from edgemem.runtime.class_table import ClassInfo, Label, own_classes
from edgemem.runtime.commits import Commits
from edgemem.runtime.continuing import Continuing, Found
from edgemem.runtime.frames import RangeWatch, checked
from edgemem.runtime.graphs import Graphs, Logits
from edgemem.runtime.guard import Guard
from edgemem.runtime.keeper import Keeper
from edgemem.runtime.known_contexts import GENERIC, KnownContexts
from edgemem.runtime.labels import Labels
from edgemem.runtime.learner import Learner
from edgemem.runtime.lookout import Lookout
from edgemem.runtime.ownership import Owned, in_turn
from edgemem.runtime.result import Event, Result, make_result, tell
from edgemem.runtime.ring import Ring
from edgemem.runtime.schedule import Schedule, When
from edgemem.runtime.settings import HyperParameters
from edgemem.runtime.snapshots import holds_frames
from edgemem.runtime.teacher import Teacher

if TYPE_CHECKING:
    from edgemem.runtime.backends.choice import Engine
    from edgemem.runtime.background import Background
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.state import State


class Runtime(Owned):
    """Predicts and adapts with one bundle. Made by `edgemem.open`.

    Any thread may call it: calls wait for each other, and each gets the answers to its own frames.
    All threads adapt one block. In a fork of the process every call is an error, and the parent's
    goes on. A runtime has no copies and cannot be pickled.

    `close` it, or use it in a `with` block. One that is lost, because nobody holds it any more or
    the interpreter ends, commits what it has learnt and gives its state file back; but there is no
    one then who could be told that a disk refuses.

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
        keep_frames: bool = True,
        hyper_parameters: Mapping[str, float] | None = None,
        plan: Plan | None = None,
        background: Backend | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        self.bundle, self._state = bundle, state
        self.plan, self.engine = plan, engine
        manifest, self._adapting = bundle.manifest, adapt
        parameters = HyperParameters(manifest, hyper_parameters or {})
        step = "adapt" if plan is None else plan.graph
        self._graphs = Graphs(bundle, backend, step, background)
        self._learner = Learner(bundle, self._graphs, parameters)
        self._guard = Guard(bundle, self._graphs, self._learner, adapting=adapt)
        self._behind: Background | None = None
        if background is not None:
            from edgemem.runtime.background import Background  # threads take a while to load

            self._behind = Background()
        self._range = RangeWatch(manifest.frames)
        self._ring = Ring(manifest.frames.batch, manifest.frames.shape)
        self._lookout = Lookout(bundle, self._graphs, self._ring)
        follows = contexts and adapt and manifest.source is not None
        self._known = KnownContexts(bundle, state, follows)
        self._commits = None
        if state is not None:
            self._commits = Commits(
                state, manifest, self._learner, self._ring, self._guard, keep_frames=keep_frames
            )
        self._adaptation = Adaptation(
            self._graphs, self._learner, self._guard, self._ring, Schedule(adapt_when),
            self._commits, self._behind, self._known.get,
        )  # fmt: skip
        self._keeper = Keeper(
            state, self._commits, self._known, self._learner, self._behind, self._turn
        )
        self._teacher = Teacher(
            bundle, self._graphs, self._learner, self._ring, self._keeper.commit
        )
        self._keeper.teacher, self._keeper.adaptation = self._teacher, self._adaptation
        self._continuing = Continuing(
            bundle, bundle.path if state is None else state.path, self._ring, self._learner,
            self._guard, self._teacher, self._commits,
        )  # fmt: skip
        self._keeper.notices = [] if engine is None else engine.events()
        if state is not None or manifest.levels:  # to go on from, or that might be damaged
            try:
                found = self._continuing.find(state)
                self._keeper.notices += self._continuing.go_on(found, self._known.open())
                if state is not None and not keep_frames and holds_frames(state.snapshots()):
                    self._ring.clear()
                    self._keeper.drop_frames()
            except BaseException:
                self._known.close()
                raise
        weakref.finalize(self, self._keeper.lose)

    @property
    def hyper_parameters(self) -> HyperParameters:
        """Scalars by name; change the values at will, to finite ones."""
        return self._learner.hyper_parameters

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing happened since the state file was new."""
        return self._learner.counters

    @in_turn
    def predict(self, frames: Array, *, frozen: bool = False) -> Result:
        """Predict without changing anything.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number.
            frozen: answer as the frozen model, whatever has been learnt.

        Raises:
            InputError: frames that do not fit the bundle.
        """
        x = self._checked(frames)
        events = self._range.look(x)
        if frozen:
            logits = [self._graphs.frozen(chunk) for chunk in self._chunks(x)]
            return self._result(logits, events, GENERIC)
        recent, logits = self._ring.last(self._ring.count), []
        for chunk in self._chunks(x):
            recent = np.concatenate([recent, chunk])[-self._ring.size :]
            logits.append(self._between(recent, len(chunk), events))
        return self._result(logits, events)

    @in_turn
    def step(self, frames: Array) -> Result:
        """Predict, then adapt whenever a full batch of frames has been gathered.

        Every prediction returned was made BEFORE the update that its frame takes part in. Frames
        that do not fill a batch wait in the ring buffer; they are predicted at once all the same.
        Where frames are like the source's the frozen model answers, and nothing is learnt.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number.

        Raises:
            InputError: frames that do not fit the bundle; nothing changes then.
        """
        x, logits, position = self._checked(frames), [], 0
        if self._adapting and len(x) >= self._ring.missing:
            self._graphs.open_step()  # before anything changes
        self._adaptation.take_learnt(self._keeper.notices)
        events = self._keeper.noticed() + self._range.look(x)
        while position < len(x):
            take = min(len(x) - position, self._ring.missing)
            self._keeper.changed = True
            due = self._ring.push(x[position : position + take])
            self.counters["frames"] += take
            position += take
            if due:
                self._lookout.reset()
            if due and self._adapting:
                logits.append(self._adaptation.adapt(events)[-take:])
            else:
                self._lookout.look(take, self._known.memory)
                recent = self._ring.last(self._ring.count)
                logits.append(self._between(recent, take, events))
            self._keeper.commit_if_due(events)
        return self._result(logits, events)

    @in_turn
    def learn(self, frames: Array, labels: Labels) -> Result:
        """Learn from labelled frames: new classes, or what the known ones look like here.

        One to five frames of a class are enough to start with, more refine it; with the
        hyper-parameter "learn_rate" at 0 nothing but running means is changed. What is learnt is
        committed at once: after a power cut it is there as a whole, or not at all. Part of it every
        context knows, the rest is the present one's. The frames take part in no adaptation step.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number.
            labels: for each frame the name of its class (text), or its number as in
                `result.labels`; for one frame it may come bare. A name that is unknown opens a
                class, and so does a number without one, under its digits.

        Returns:
            What was predicted for the frames before they were learnt (before their own group of
            a few, where there are many), and an event "learnt".

        Raises:
            InputError: frames that do not fit the bundle; labels of another type or number, out of
                range, or different for the same frame; more classes than there is room for; a
                single class, with no other to tell it from; frames that give nothing finite; a
                bundle that learns no classes. Nothing changes then.
            StateError: the disk refuses. Nothing changes then.
        """
        lesson = self._teacher.lesson(self._checked(frames), labels)
        self._settle()
        logits, learnt = self._teacher.learn(lesson, self._contexts)
        return self._result([logits], [*self._keeper.noticed(), learnt])

    @in_turn
    def classes(self) -> list[ClassInfo]:
        """All classes that are predicted, by number: the model's own, and those that were taught."""
        return list(self._teacher.table.listed())

    @in_turn
    def forget_class(self, name: Label) -> None:
        """Forget what was taught of a class, in all contexts, and commit that.

        The class is gone then, unless it is one of the model's own. Whatever in the state file
        still held its prototype is deleted, earlier versions of blocks and commits included, and
        overwritten. So are all recent frames, in the file and in memory, for any may show it: as
        after a new start, the next batch begins without any. What a step learnt from its frames in
        scales and shifts stays. What the disk itself, a backup or an export keeps is out of reach.

        Args:
            name: of the class, or its number.

        Raises:
            InputError: there is no such class, or nothing was taught of it.
            StateError: the disk refuses, or a written block is damaged; nothing changes then. Or
                somebody is reading the state file: the class is forgotten, but its bytes are still
                in the log.
        """
        self._require_open()
        self._settle()
        self._teacher.forget(name, self._contexts)
        self._lookout.reset()
        self._keeper.scrub()

    @in_turn
    def rename_class(self, old: Label, new: str) -> None:
        """Give a class another name, and commit that.

        Args:
            old: name of a class, one of the model's own included, or its number.
            new: printable text that is no other class's name, at most 128 characters.

        Raises:
            InputError: there is no such class, or it may not have that name.
            StateError: the disk refuses; nothing changes then.
        """
        self._require_open()
        self._settle()
        self._teacher.rename(old, new, self._contexts)

    def _settle(self) -> None:
        """Before classes change: take what is being learnt or read."""
        self._keeper.settle()
        self._lookout.drop()

    @in_turn
    def rollback(self, to: Literal["commit", "source", "zero"] = "commit") -> None:
        """Take an earlier block.

        "commit": as last written to the state file (or as at opening, without one). What was not
        committed is given up: nothing is left that `close` would have to write.
        "source": as exported. "zero": nothing learnt, warm-up included; the frozen weights with
        the bundle's own statistics. The optimiser starts afresh, except at "commit". Classes that
        were taught go back with the block.
        """
        self._require_open()
        if to not in ("commit", "source", "zero"):
            raise InputError(f"rollback target {to!r}", "is unknown", "Use commit, source or zero")
        found = self._continuing.find(self._state) if to == "commit" else Found()
        if self._behind is not None:
            self._behind.drop()  # what it learnt is rolled back, too
        self._lookout.drop()
        start = self._graphs.zero if to == "zero" else self.bundle.generic
        if to == "commit" and self._state is not None:
            self._keeper.notices += self._continuing.take_blocks(found, self._contexts)
        else:
            self._teacher.table = own_classes(self.bundle.manifest)
            self._learner.take(start)
            if self._contexts is not None:
                self._contexts.reset(start)
            self._guard.reset()
        self._keeper.changed = to != "commit"  # else the file has it already

    @in_turn
    def flush(self) -> None:
        """Commit block, optimiser, recent frames and counters to the state file, if there is one.

        What was learnt is also committed without being asked: see docs/reliability.md for how much
        a power cut may cost.

        Raises:
            StateError: the disk refuses; the last commit is still there.
        """
        self._require_open()
        self._keeper.flush()

    def close(self) -> None:
        """Flush what changed and close. Safe to call twice; in a fork it does nothing.

        Raises:
            StateError: the disk refuses; the last commit is still there. The runtime stays open
                then, and so does its state file: call this again once there is space, and all is
                committed. `rollback()` gives up what is not committed, so that it can be closed.
        """
        if not self._turn.forked:
            with self._turn.lock:
                self._keeper.close()

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
        return self._known.get()

    def _between(self, recent: NDArray[np.float32], n: int, events: list[Event]) -> Logits:
        """Logits of the last n of the most recent frames, which make no full batch to learn from."""
        if self._guard.opinion.may_be_familiar(recent):
            return self._learner.frozen(recent[-n:])
        block, beside = self._lookout.chosen(self._learner.block, n)
        return self._learner.answer(recent[-beside:], n, events, block)

    def _result(
        self, logits: list[Logits], events: list[Event], context: str | None = None
    ) -> Result:
        """context: whose block answered; None = the present one's."""
        found = np.concatenate(logits)
        if wrong := len(found) - int(np.isfinite(found).all(1).sum()):
            text = f"{wrong} of {len(found)} answers are no numbers, not even the frozen model's"
            tell(events, "overflow", text, logging.WARNING)
        return make_result(found, context or self._known.name, events, self._known.drift)

    @property
    def bytes_written(self) -> int:
        """Bytes written to the state file since opening."""
        return 0 if self._state is None else self._state.bytes_written

    def _checked(self, frames: Array) -> NDArray[np.float32]:
        self._require_open()
        return checked(frames, self.bundle.manifest.frames)

    def _chunks(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [x[i : i + self._ring.size] for i in range(0, len(x), self._ring.size)]

    def _require_open(self) -> None:
        if self._keeper.closed:
            raise InputError("runtime", "is closed", "Open the bundle again")
