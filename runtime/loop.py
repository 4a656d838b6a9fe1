"""The loop: frames in, predictions out, and a block that adapts in between."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgemem.block import Array
from edgemem.bundle.manifest import Plan as StepPlan
from edgemem.bundle.opening import Bundle
from edgemem.bundle.rows import layout
from edgemem.errors import InputError
from edgemem.runtime.class_calls import ClassCalls
from edgemem.runtime.contexts.context_blocks import GENERIC
from edgemem.runtime.contexts.context_files import ContextFiles
from edgemem.runtime.contexts.shipped_rows import LAST_PATIENCE
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.frames import Inputs, RangeWatch
from edgemem.runtime.ownership import in_turn
from edgemem.runtime.persistence.commits import Commits
from edgemem.runtime.persistence.keeper import Keeper
from edgemem.runtime.result import Result, tell
from edgemem.runtime.session import new_session
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.step.hyper_parameters import HyperParameters
from edgemem.runtime.step.ring import Ring
from edgemem.runtime.step.schedule import Schedule, When
from edgemem.runtime.step.stepping import Stepping

if TYPE_CHECKING:
    from edgemem.runtime.engines.choice import Engine
    from edgemem.runtime.step.background import Background
    from edgemem.state.store import State


class Runtime(ClassCalls):
    """Predicts and adapts with one bundle. Made by `edgemem.open`.

    Any thread may call it: calls wait for each other, and each gets the answers to its own frames.
    All threads adapt one block. In a fork of the process every call is an error, and the parent's
    goes on. A runtime has no copies and cannot be pickled.

    `close` it, or use it in a `with` block. One that is lost, because nobody holds it any more or
    the interpreter ends, commits what it has learnt; but nobody is told then that a disk refuses.

    Attributes:
        bundle: the verified bundle.
        engine: what runs its graphs, and why; None = a backend without a choice.
        plan: how its step runs; None = as the first plan.
        counters: frames, steps, updates, unreliable, skipped and restored since the state file was
            new.
        hyper_parameters: scalars by name.
        bytes_written: to the state file since opening.
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
        behind = None if background is None else _background()
        self._range = RangeWatch(manifest.frames)
        self._ring = Ring(manifest.frames.batch, *layout(manifest.frames))
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
    def predict(
        self, frames: Array, *, inputs: Inputs | None = None, frozen: bool = False
    ) -> Result:
        """Predict without changing anything.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number. Token ids are int64.
            inputs: what the bundle takes beside the frames, by name, one row for each frame.
            frozen: answer as the frozen model, whatever has been learnt.

        Returns:
            Predictions in the order of the frames.

        Raises:
            InputError: frames or inputs that do not fit the bundle.
        """
        x, size = self._checked(frames, inputs), self._ring.size
        chunks, events = (
            (x[i : i + size] for i in range(0, len(x), size)),
            tell(self._range.look(x)),
        )
        if frozen:
            frozen_answers = [self._graphs.frozen(chunk) for chunk in chunks]
            return self._result(x, frozen_answers, events, GENERIC)
        recent, answers = self._ring.beside(x), []
        for chunk in chunks:
            recent = np.concatenate([recent, chunk])[-size:]
            found, more = self._stepping.between(recent, len(chunk))
            answers.append(found)
            events += tell(more)
        return self._result(x, answers, events)

    @in_turn
    def step(self, frames: Array, *, inputs: Inputs | None = None) -> Result:
        """Predict, then adapt whenever a full batch of frames has been gathered.

        Every prediction returned was made BEFORE the update that its frame takes part in. Frames
        that do not fill a batch wait in the ring buffer; they are predicted at once all the same.
        Where frames are like the source's the frozen model answers, and nothing is learnt. Frames
        of another size than those that wait take their place: no step is made of two sizes, and
        none of the frames that waited, which an event tells.

        Args:
            frames: [n, ...] uint8 or float32, or one bare frame. Any number. Token ids are int64.
            inputs: what the bundle takes beside the frames, by name, one row for each frame.

        Returns:
            Predictions in the order of the frames, and what happened.

        Raises:
            InputError: frames or inputs that do not fit the bundle; nothing changes then.
        """
        x, answers, position = self._checked(frames, inputs), [], 0
        if self._adapting and len(x) >= self._stepping.missing_like(x):
            self._graphs.open_step(self._parameters.now(), x)  # before anything changes
        learnt = self._keeper.take_learnt()
        events = self._keeper.noticed() + learnt + tell(self._range.look(x))
        while position < len(x):
            part = x[position : position + self._stepping.missing_like(x)]
            position += len(part)
            found, more = self._stepping.step(part, adapting=self._adapting)
            answers.append(found)
            events += more + self._keeper.commit_if_due()
        return self._result(x, answers, events)

    @in_turn
    def rollback(self, to: Literal["commit", "source", "zero"] = "commit") -> None:
        """Take an earlier block.

        The optimiser starts afresh, except at "commit". Classes that were taught go back with the
        block.

        Args:
            to: "commit" = as last written to the state file (or as at opening, without one). What
                was not committed is given up: nothing is left that `close` would have to write.
                "source" = as exported. "zero" = nothing learnt, warm-up included; the frozen
                weights with the bundle's own statistics.

        Raises:
            InputError: another target.
            StateError: the state file cannot be read.
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
            StateError: the disk refuses; the last commit is still there. The runtime and its file
                stay open then: call this again once there is space, and all is committed.
                `rollback()` gives up what is not committed, so that it can be closed.
        """
        if not self._turn.forked:
            with self._turn.lock:
                self._keeper.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes_written(self) -> int:
        """Bytes written to the state file since opening."""
        return 0 if self._state is None else self._state.bytes_written


def _background() -> Background:
    from edgemem.runtime.step.background import Background  # threads take a while to load

    return Background()
