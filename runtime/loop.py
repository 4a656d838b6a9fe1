"""The loop: frames in, predictions out, and a block that adapts in between."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array
from edgemem.bundle.manifest import Plan as StepPlan
from edgemem.bundle.opening import Bundle
from edgemem.errors import InputError
from edgemem.runtime.classes import taught_classes
from edgemem.runtime.classes.class_table import ClassInfo, Label
from edgemem.runtime.classes.labels import Labels
from edgemem.runtime.contexts.context_blocks import GENERIC
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.lookahead import Lookahead
from edgemem.runtime.contexts.shipped_rows import LAST_PATIENCE
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.frames import RangeWatch, checked
from edgemem.runtime.logits import Logits
from edgemem.runtime.ownership import Owned, in_turn
from edgemem.runtime.persistence.commits import Commit, Commits
from edgemem.runtime.persistence.keeper import Keeper
from edgemem.runtime.result import Event, EventKind, Events, Result, make_result, tell
from edgemem.runtime.session import Session, new_session
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.step.hyper_parameters import HyperParameters
from edgemem.runtime.step.ring import Ring
from edgemem.runtime.step.schedule import Schedule, When
from edgemem.runtime.step.stepping import Stepping

if TYPE_CHECKING:
    from edgemem.runtime.engines.choice import Engine
    from edgemem.runtime.step.background import Background
    from edgemem.state.store import State


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
        plan: StepPlan | None = None,
        background: Backend | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        self.bundle, self._state = bundle, state
        self.plan, self.engine = plan, engine
        manifest, self._adapting = bundle.manifest, adapt
        self._parameters = HyperParameters(manifest, hyper_parameters or {})
        step = "adapt" if plan is None else plan.graph
        self._graphs = Graphs(bundle, backend, step, background)
        behind: Background | None = None
        if background is not None:
            from edgemem.runtime.step.background import Background  # threads take a while to load

            behind = Background()
        self._range = RangeWatch(manifest.frames)
        self._ring = Ring(manifest.frames.batch, manifest.frames.shape)
        self._files = ContextFiles(bundle, state)
        commits = None if state is None else Commits(state, self._files, keep_frames=keep_frames)
        session = new_session(bundle, follows=contexts and adapt and manifest.source is not None)
        self._keeper = Keeper(
            session, self._ring, self._files, state, commits, behind, Schedule(adapt_when),
            self._turn,
        )  # fmt: skip
        self._stepping = Stepping(
            self._keeper, self._graphs, self._parameters, self._ring, self._files
        )
        self._keeper.notices = () if engine is None else engine.events()
        if state is not None or manifest.levels:  # to go on from, or that might be damaged
            try:
                self._keeper.resume(adapting=adapt, keep_frames=keep_frames)
            except BaseException:
                self._files.close(LAST_PATIENCE)
                raise
        weakref.finalize(self, self._keeper.lose)

    @property
    def hyper_parameters(self) -> HyperParameters:
        """Scalars by name; `set` changes them, at once and for all calls to come."""
        return self._parameters

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing happened since the state file was new."""
        return asdict(self._session.counters)

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
        events = tell(self._range.look(x))
        if frozen:
            logits = [self._graphs.frozen(chunk) for chunk in self._chunks(x)]
            return self._result(logits, events, GENERIC)
        recent, logits = self._ring.last(self._ring.count), []
        for chunk in self._chunks(x):
            recent = np.concatenate([recent, chunk])[-self._ring.size :]
            found, more = self._stepping.between(recent, len(chunk))
            logits.append(found)
            events += tell(more)
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
        if self._adapting and len(x) >= self._stepping.missing:
            self._graphs.open_step()  # before anything changes
        learnt = self._keeper.take_learnt()
        events = self._keeper.noticed() + learnt + tell(self._range.look(x))
        while position < len(x):
            part = x[position : position + self._stepping.missing]
            position += len(part)
            found, more = self._stepping.step(part, adapting=self._adapting)
            logits.append(found)
            events += more + self._keeper.commit_if_due()
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
        x = self._checked(frames)
        lesson = taught_classes.lesson(self._session, x, labels, self.bundle, self._graphs)
        session, logits = taught_classes.learn(
            self._keeper.settled(), lesson, self._graphs, self._parameters, self._ring, self.bundle
        )
        self._keeper.commit(Commit("learnt"), session)
        learnt = Event(EventKind.LEARNT, taught_classes.told(lesson), logging.DEBUG)
        return self._result([logits], (*self._keeper.noticed(), learnt))

    @in_turn
    def classes(self) -> list[ClassInfo]:
        """All classes that are predicted, by number: the model's own, and those taught."""
        return list(self._session.all_classes(self.bundle).listed())

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
        forgotten = taught_classes.forget(self._keeper.settled(), name, self.bundle)
        session = replace(forgotten.session, pending=0, lookahead=Lookahead())
        self._keeper.commit(Commit("forgot a class", clear=forgotten.clear), session)
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
        session = taught_classes.rename(self._keeper.settled(), old, new, self.bundle)
        self._keeper.commit(Commit("renamed a class"), session)

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
        if to == "commit" and self._state is not None:
            self._keeper.go_back(adapting=self._adapting)
        else:
            self._keeper.start_again(self._graphs.zero if to == "zero" else self.bundle.generic)
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
    def _session(self) -> Session:
        return self._keeper.session

    def _result(self, logits: list[Logits], events: Events, context: str | None = None) -> Result:
        """context: whose block answered; None = the present one's."""
        found, contexts = np.concatenate(logits), self._session.contexts
        if wrong := len(found) - int(np.isfinite(found).all(1).sum()):
            text = f"{wrong} of {len(found)} answers are no numbers, not even the frozen model's"
            events += tell((Event(EventKind.OVERFLOW, text, logging.WARNING),))
        names = self._session.all_classes(self.bundle).names
        return make_result(found, context or contexts.name, events, contexts.drift, names)

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
