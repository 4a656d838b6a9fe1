"""What the calls of a runtime share, and those about classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from weakref import ReferenceType, ref

import numpy as np

from edgemem.block import Array, Block
from edgemem.bundle.opening import Bundle
from edgemem.errors import InputError
from edgemem.runtime.answers import Answers
from edgemem.runtime.classes import taught_classes
from edgemem.runtime.classes.class_table import ClassInfo, ClassTable, Label
from edgemem.runtime.classes.labels import Labels
from edgemem.runtime.contexts.lookahead import Lookahead
from edgemem.runtime.frames import Inputs, checked
from edgemem.runtime.ownership import Owned, in_turn
from edgemem.runtime.persistence.commits import Commit
from edgemem.runtime.persistence.keeper import Keeper
from edgemem.runtime.result import Event, EventKind, Events, Result, make_result, overflow, tell
from edgemem.runtime.session import Session
from edgemem.runtime.step.graphs import Frames, Graphs
from edgemem.runtime.step.hyper_parameters import HyperParameters
from edgemem.runtime.step.ring import Ring


class ClassCalls(Owned):
    """Learns, lists, renames and forgets classes; the part of `Runtime` that does."""

    bundle: Bundle
    _graphs: Graphs
    _keeper: Keeper
    _parameters: HyperParameters
    _ring: Ring
    _known_names: tuple[ReferenceType[Block], ClassTable, Mapping[int, str]] | None = None

    @in_turn
    def learn(self, frames: Array, labels: Labels, *, inputs: Inputs | None = None) -> Result:
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
            inputs: what the bundle takes beside the frames, by name, one row for each frame.

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
        x = self._checked(frames, inputs)
        lesson = taught_classes.lesson(self._session, x, labels, self.bundle, self._graphs)
        session, logits = taught_classes.learn(
            self._keeper.settled(),
            lesson,
            self._graphs,
            self._parameters.now(),
            self._ring,
            self.bundle,
        )
        self._keeper.commit(Commit("learnt"), session)
        learnt = Event(EventKind.LEARNT, taught_classes.told(lesson), logging.DEBUG)
        return self._result(x, [logits], self._keeper.noticed() + tell((learnt,)))

    @in_turn
    def classes(self) -> list[ClassInfo]:
        """All classes that are predicted, by number: the model's own, and those taught."""
        return list(self._session.all_classes(self.bundle).listed())

    @in_turn
    def forget_class(self, name: Label) -> None:
        """Forget what was taught of a class, in all contexts, and commit that.

        The class is gone then, unless it is one of the model's own. Whatever in the state file
        held its prototype is deleted and overwritten, earlier versions and commits included. So
        are all recent frames, in the file and in memory, for any may show it. What a step learnt
        from its frames stays, and so does what the disk itself, a backup or an export keeps.

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

    @property
    def _session(self) -> Session:
        return self._keeper.session

    def _names(self) -> Mapping[int, str]:
        """Names of classes by number, looked for again where block or classes have changed."""
        session, known = self._session, self._known_names
        if known is None or known[0]() is not session.block or known[1] is not session.classes:
            names = session.all_classes(self.bundle).names
            self._known_names = known = ref(session.block), session.classes, names
        return known[2]

    def _result(
        self, x: Frames, answers: list[Answers], events: Events, context: str | None = None
    ) -> Result:
        """x: the frames that are answered. context: whose block did; None = the present one's."""
        found, contexts = np.concatenate(answers), self._session.contexts
        events += tell(overflow(found))
        told = context or contexts.name, events, contexts.drift
        return make_result(found, self._graphs.manifest(x), *told, self._names())

    def _checked(self, frames: Array, inputs: Inputs | None) -> Frames:
        self._require_open()
        return checked(frames, self.bundle.manifest.frames, inputs)

    def _require_open(self) -> None:
        if self._keeper.closed:
            raise InputError("runtime", "is closed", "Open the bundle again")
