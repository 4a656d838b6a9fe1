"""A device whose calls are made to fail, again and again: the file is whole, and it goes on."""

import gc
import shutil
from contextlib import closing, suppress
from pathlib import Path
from unittest.mock import patch

from counts import files_of
from device import (
    RIGHT,
    Said,
    Verdict,
    announced,
    batch,
    held,
    holds,
    judged,
    knows_cat,
    lesson,
    opened,
    prepared,
)

import edgemem
from edgemem.bank.written.transfer import import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.runtime.persistence import commits
from edgemem.state.store import State


def _step(runtime):
    with patch.object(commits, "MOST_STEPS", 1):  # a commit is due
        return runtime.step(batch(runtime.counters["steps"]))


# Calls of an open runtime that has learnt since its last commit.
CALLS = {
    "flush": lambda runtime: runtime.flush(),
    "step": _step,
    "learn": lambda runtime: runtime.learn(*lesson(runtime.counters["steps"])),
    "forget_class": lambda runtime: runtime.forget_class("cat"),
    "rename_class": lambda runtime: runtime.rename_class(
        RIGHT, f"port {runtime.counters['steps']}"
    ),
    "rollback": lambda runtime: runtime.rollback(),
    "close": lambda runtime: runtime.close(),
}
# What is done to a file that is closed.
FILE_CALLS = ("create", "open", "compact", "import")


class Bench:
    """One device. The last one is left alone after a failure, for whatever has become of it.

    error: what a call may raise when it meets a fault.
    """

    def __init__(self, bundle, folder, error):
        self._bundle, self._folder, self._error = bundle, Path(folder), error
        self._number, self._runtime, self.said = 0, None, Said()
        self._import = prepared(bundle, self._folder / "import")
        self.renew()

    def renew(self):
        """Another file."""
        self._number += 1
        self._runtime = None
        gc.collect()
        self.path = self._folder / str(self._number) / "s.db"
        self.path.parent.mkdir()

    def get_ready(self, name):
        """Have something to commit, or the file that a call needs."""
        if name in CALLS:
            self._get_runtime_ready()
            return
        self._leave()
        if name in ("create", "import"):
            for file in self.path.parent.iterdir():
                file.unlink()
        if name == "import":
            shutil.copy(self._import[0], self.path)
        elif name != "create":
            with opened(self._bundle, self.path) as runtime:
                _learn_something(runtime)
        self.said = Said(holds(self.path))

    def _get_runtime_ready(self):
        if self._runtime is None:
            self._runtime = opened(self._bundle, self.path)
            _learn_something(self._runtime)
            self._runtime.flush()
        _learn_something(self._runtime)
        self.said = Said(self._now())

    def call(self, name):
        """Make the call; its result, or the runtime that it opened."""
        if name in CALLS:
            return CALLS[name](self._runtime)
        if name in ("create", "open"):
            return opened(self._bundle, self.path)
        with closing(State(self.path, None)) as state:
            if name == "compact":
                return WrittenBlocks(state).compact()
            return import_blocks(state, self._import[2])

    def faulted(self, name, fault):
        """Make a call inside of a fault; what is wrong afterwards, and the files after it."""
        self.get_ready(name)
        if name == "import":
            self.said.say("intend", *holds(self._import[1]))
        self._before, classes = self.said.sure, self._classes()
        wrong, result, raised = [], None, False
        with announced(self.said):
            try:
                with fault:
                    result = self.call(name)
                if name == "import":
                    self.said.say("wrote")
            except self._error as error:
                raised = True
                wrong += _unclear(error)
            except Exception as error:  # noqa: BLE001 - a fault that turns into anything else
                wrong.append(f"raises {type(error).__name__}: {error}")
        files = files_of(self.path)
        told = name != "step" or raised or any(e.kind == "unwritten" for e in result.events)
        if isinstance(result, edgemem.Runtime):
            result.close()
        del result
        gc.collect()
        try:
            verdict = self._afterwards(name, raised)
        except Exception as error:  # noqa: BLE001 - whatever it is, the device does not go on
            verdict = Verdict("", [f"afterwards {type(error).__name__}: {error}"])
        nothing_done = raised and self._error is edgemem.StateError and verdict.content == "old"
        if nothing_done and name in CALLS and classes != self._classes_after:
            wrong.append("classes changed in memory, although the call failed")
        if verdict.content == "old" and not told:
            wrong.append("a commit that was due was not made, and no event says so")
        wrong += verdict.wrong
        if wrong:
            self.renew()
        return Verdict(verdict.content, wrong, verdict.lost), files

    def _afterwards(self, name, raised):
        if name not in CALLS:
            return judged(self.path, self._bundle, self.said)
        if name == "close":
            return self._closed(raised)
        content, wrong = self._file_now()
        self._classes_after = self._classes()
        before = self._runtime.counters["steps"]
        with announced(self.said):
            self._runtime.step(batch(before))
            self._runtime.flush()
        found, steps = self._now(), self._runtime.counters["steps"]
        if found != self.said.sure or not found.steps == steps == before + 1:
            wrong.append(f"later commits: {found} is there after {before} and 1 steps")
        return Verdict(content, wrong)

    def _closed(self, raised):
        """Once a close has returned, be it the second, all that was learnt is there."""
        self._classes_after = self._classes()
        content, wrong = self._file_now() if raised else ("new", [])
        with announced(self.said):
            self._runtime.close()
        steps, self._runtime = self._runtime.counters["steps"], None
        verdict = judged(self.path, self._bundle, self.said)
        if self.said.sure.steps != steps:
            wrong.append(f"closed after {steps} steps, with {self.said.sure.steps} of them")
        return Verdict(content, [*wrong, *verdict.wrong])

    def _file_now(self):
        """Which content the file holds, as others see it, and what is wrong with that."""
        with closing(State(self.path, None, read_only=True)) as state:
            wrong = [f"damage: {error}" for error in WrittenBlocks(state).verify()]
            found = held(state)
        if found not in (self.said.sure, self.said.next):
            wrong.append(f"holds {found}, neither {self.said.sure} nor {self.said.next}")
        return "old" if found == self._before else "new", wrong

    def _now(self):
        with closing(State(self.path, None, read_only=True)) as state:
            return held(state)

    def _classes(self):
        return None if self._runtime is None else self._runtime.classes()

    _classes_after = None

    def _leave(self):
        if self._runtime is not None:
            with suppress(Exception):
                self._runtime.close()
        self._runtime = None


def _learn_something(runtime):
    runtime.step(batch(runtime.counters["steps"]))
    if not knows_cat(runtime):
        runtime.learn(*lesson(runtime.counters["steps"]))
        runtime.step(batch(runtime.counters["steps"]))


def _unclear(error):
    """What an error of ours lacks."""
    if isinstance(error, edgemem.EdgeMemError) and not (error.reason and error.remedy):
        return [f"an error without a remedy: {error}"]
    return []
