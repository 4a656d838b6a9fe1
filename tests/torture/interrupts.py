"""A KeyboardInterrupt at any line of a call: the file is whole, and the runtime goes on."""

import gc
import random
import shutil
import sys
from contextlib import closing, suppress
from pathlib import Path

from counts import Row, files_of
from device import (
    RIGHT,
    Said,
    Verdict,
    announced,
    batch,
    fast_folder,
    held,
    holds,
    judged,
    knows_cat,
    lesson,
    opened,
)

import edgemem
from edgemem.bank.written import WrittenBlocks
from edgemem.state import State

OURS = tuple(str(Path(module.__file__).parent) for module in (edgemem, edgemem.runtime))


class Interrupt:
    """Interrupts a call when it has run so many of our lines; counts them. after: None = never."""

    def __init__(self, after=None):
        self._after, self.lines, self.place = after, 0, None

    def __enter__(self):
        sys.settrace(self._called)

    def __exit__(self, *error):
        sys.settrace(None)

    def _called(self, frame, event, _):
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame, event, _):
        if event == "line":
            if self.lines == self._after:
                sys.settrace(None)
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.lines += 1
                raise KeyboardInterrupt
            self.lines += 1
        return self._line


def _step(runtime):
    runtime._commits.step -= 64  # a commit is due
    runtime.step(batch(runtime.counters["steps"]))


def _forget(runtime):
    runtime.forget_class("cat")


# What is interrupted: a call of an open runtime, which has learnt since its last commit.
CALLS = {
    "flush": lambda runtime: runtime.flush(),
    "step": _step,
    "learn": lambda runtime: runtime.learn(*lesson(runtime.counters["steps"])),
    "forget_class": _forget,
    "rename_class": lambda runtime: runtime.rename_class(RIGHT, f"port {runtime.counters['steps']}"),
    "rollback": lambda runtime: runtime.rollback(),
    "close": lambda runtime: runtime.close(),
}


class Bench:
    """A device to interrupt, again and again; a new one after it has failed."""

    def __init__(self, bundle, folder):
        self._bundle, self._folder, self._number = bundle, Path(folder), 0
        self.renew()

    def renew(self):
        """Another file; whatever has become of the last one."""
        self._number += 1
        self.path = self._folder / str(self._number) / "s.db"
        self.path.parent.mkdir()
        self.open()

    def open(self):
        """Open the file, and learn a little."""
        self.said = Said()
        with announced(self.said):
            self.runtime = opened(self._bundle, self.path)
            if not knows_cat(self.runtime):
                self.runtime.learn(*lesson(0))
        self.said = Said(holds_of(self.runtime))

    def learn(self):
        """Have something to commit; open the file first, where it is closed."""
        if self.runtime is None:
            self.open()
        self.runtime.step(batch(self.runtime.counters["steps"]))
        if not knows_cat(self.runtime):
            with announced(self.said):
                self.runtime.learn(*lesson(self.runtime.counters["steps"]))

    def interrupted(self, name, after):
        """Interrupt a call; the interrupt, what is wrong afterwards, and the files."""
        self.learn()
        interrupt = Interrupt(after)
        with announced(self.said), suppress(KeyboardInterrupt), interrupt:
            CALLS[name](self.runtime)
        self.said.taken = self.runtime.counters["steps"]
        files = files_of(self.path)
        return interrupt, self._afterwards(name), files

    def _afterwards(self, name):
        wrong = []
        try:
            content, wrong = self._file_now()
            if name == "close":
                self.runtime.close()
            else:
                wrong += self._going_on()
        except (edgemem.EdgeMemError, LookupError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
            content = ""
        if name == "close" and not wrong:
            self.runtime = None
            wrong += self._closed()
        return Verdict(content, wrong)

    def _file_now(self):
        """Which content the file holds, as others see it."""
        with closing(State(self.path, None, read_only=True)) as state:
            damage, found = WrittenBlocks(state).verify(), held(state)
        wrong = [f"damage: {error}" for error in damage]
        if found == self.said.sure:
            return "old", wrong
        if found == self.said.next:
            return "new", wrong
        return "", [*wrong, f"holds {found}, neither {self.said.sure} nor {self.said.next}"]

    def _going_on(self):
        """Later steps and commits work, and hold what is in memory."""
        before = self.runtime.counters["steps"]
        self.runtime.step(batch(before))
        with announced(self.said):
            self.runtime.flush()
        steps, found = self.runtime.counters["steps"], holds_of(self.runtime)
        if found != self.said.sure or found.steps != steps or steps != before + 1:
            return [f"later commits: {found} is there after {before} and 1 steps"]
        return []

    def _closed(self):
        """The file is given back, with all that was learnt in it."""
        try:
            verdict = judged(self.path, self._bundle, self.said)
        except edgemem.EdgeMemError as error:
            return [f"{type(error).__name__}: {error}"]
        wrong = list(verdict.wrong)
        if verdict.lost:
            wrong.append(f"{verdict.lost} steps were lost by a close that returned")
        return wrong


def holds_of(runtime):
    """What the file of an open runtime holds, read by another handle."""
    with closing(State(runtime._state.path, None, read_only=True)) as state:
        return held(state)


def run(bundle, seed, most, told):
    """Interrupt every call at each of its lines, or at so many at most; a row for each call."""
    rows = []
    with fast_folder() as folder:
        for name in CALLS:
            row = Row(f"interrupted: {name}", lost=None)
            rows.append(row)
            place = Path(folder, name)
            place.mkdir()
            bench = Bench(bundle, place)
            for after in _lines(bench, name, seed, most):
                interrupt, verdict, files = bench.interrupted(name, after)
                if interrupt.place is None:
                    continue
                row.add(verdict, f"line {after}, at {interrupt.place}", files)
                if verdict.wrong:
                    bench.renew()
                told()
        rows.append(_opening(bundle, Path(folder, "opening"), seed, most, told))
    return rows


def _lines(bench, name, seed, most):
    """Before which of its lines a call is interrupted; with a few to spare, for calls differ."""
    bench.learn()
    counting = Interrupt()
    with counting:
        CALLS[name](bench.runtime)
    if name == "close":
        bench.open()
    bench.said = Said(holds_of(bench.runtime))
    return chosen(counting.lines, f"{seed} {name}", most)


def chosen(lines, seed, most):
    """All numbers of lines, or so many of them."""
    every = range(lines)
    return sorted(random.Random(seed).sample(every, most)) if lines > most else every


def _opening(bundle, folder, seed, most, told):
    """Interrupted while it opens: what it had is there, and nobody is locked out."""
    row = Row("interrupted: open", lost=None)
    folder.mkdir()
    path = folder / "s.db"
    with opened(bundle, path) as runtime:
        runtime.step(batch(0))
        runtime.learn(*lesson(0))
    content = path.read_bytes()
    counting = Interrupt()
    with counting:
        opened(bundle, path).close()
    for after in chosen(counting.lines, f"{seed} open", most):
        interrupt, runtime = Interrupt(after), None
        said = Said(holds(path))
        with suppress(KeyboardInterrupt), interrupt:
            runtime = opened(bundle, path)
        del runtime
        gc.collect()
        files = files_of(path)
        verdict = judged(path, bundle, said)
        row.add(verdict, f"line {after}, at {interrupt.place}", files)
        if verdict.wrong:
            shutil.rmtree(folder)
            folder.mkdir()
            path.write_bytes(content)
        told()
    return row
