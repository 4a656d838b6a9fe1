"""SIGKILL at random moments of a device that does one thing over and over."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import closing
from pathlib import Path

from counts import Row, files_of
from device import (
    NOTHING,
    PLACES,
    RIGHT,
    Journal,
    Said,
    announced,
    batch,
    holds,
    judged,
    knows_cat,
    lesson,
    opened,
    prepared,
)

from edgemem.bank.written.transfer import import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import State

LONGEST = 1.0  # seconds after which a device is killed at the latest


def creation(bundle, path, journal, _):
    """New state files, one after another; the last two are kept."""
    number = 0
    while True:
        number += 1
        file = path.with_name(f"{number % 2}.db")
        file.unlink(missing_ok=True)
        journal.say("new file", str(file))
        with opened(bundle, file) as runtime:
            runtime.step(batch(number))
            journal.say("taken", 1)
            if number % 2:
                runtime.flush()


def steps(bundle, path, journal, chance):
    """Steps in one context or in several, and a flush now and then."""
    place = chance.choice([None, PLACES[0]])
    with opened(bundle, path) as runtime:
        journal.say("ready")
        while True:
            for _ in range(chance.randrange(1, 400)):
                runtime.step(batch(runtime.counters["steps"], place))
                journal.say("taken", runtime.counters["steps"])
            runtime.flush()


def teaching(bundle, path, journal, chance):
    """Lessons, other names, and classes that are forgotten."""
    with opened(bundle, path) as runtime:
        journal.say("ready")
        while True:
            number = runtime.counters["steps"]
            runtime.step(batch(number))
            journal.say("taken", number + 1)
            if not knows_cat(runtime) or chance.random() < 0.5:
                runtime.learn(*lesson(number))
            elif chance.random() < 0.5:
                runtime.rename_class(RIGHT, f"right since {number}")
            else:
                runtime.forget_class("cat")


def opening(bundle, path, journal, chance):
    """Open, step, roll back or not, close."""
    while True:
        with opened(bundle, path) as runtime:
            journal.say("ready")
            runtime.step(batch(runtime.counters["steps"]))
            journal.say("taken", runtime.counters["steps"])
            if chance.random() < 0.5:
                runtime.rollback(chance.choice(["commit", "source", "zero"]))


def compaction(bundle, path, journal, _):
    """As `edgemem bank compact`, after a few steps that leave something to give back."""
    while True:
        with opened(bundle, path) as runtime:
            for _ in range(3):
                runtime.step(batch(runtime.counters["steps"]))
                journal.say("taken", runtime.counters["steps"])
        with closing(State(path, None)) as state:
            journal.say("ready")
            WrittenBlocks(state).compact()


def importing(bundle, path, journal, _):
    """As `edgemem bank import`, into a copy of an earlier state of the same device."""
    earlier, later, blocks = prepared(bundle, path.with_name("import"))
    before, after, number = holds(earlier), holds(later), 0
    while True:
        number += 1
        file, fresh = path.with_name(f"{number % 2}.db"), path.with_name("fresh.db")
        shutil.copy(earlier, fresh)
        fresh.replace(file)
        journal.say("new file", str(file), *before)
        with closing(State(file, None)) as state:
            journal.say("intend", *after)
            import_blocks(state, blocks)
            journal.say("wrote")


# What is done when it is killed, and how often of 1,000 times.
LIVES = {
    creation: 150, steps: 250, teaching: 250, opening: 150, compaction: 100, importing: 100
}  # fmt: skip


def run(bundle, seed, kills, told):
    """Kill devices, about so many in all; rows by what they did. told: is called after each."""
    rows = []
    for life, share in LIVES.items():
        row = Row(f"killed: {life.__name__}")
        rows.append(row)
        with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
            path, sure = Path(folder, "s.db"), NOTHING
            if life is importing:
                prepared(bundle, path.with_name("import"))
            for number in range(max(1, kills * share // sum(LIVES.values()))):
                chance = random.Random(f"{seed} {life.__name__} {number}")
                said = _killed(life, bundle, path, chance, Said(sure))
                file = said.path or path
                evidence = files_of(file)
                verdict = judged(file, bundle, said)
                row.add(verdict, f"kill {number} at seed {seed}", evidence)
                if verdict.wrong:
                    for left in Path(folder).glob("*.db*"):
                        left.unlink()
                sure = holds(path)
                told()
    return rows


def _killed(life, bundle, path, chance, said):
    """Let a device live and die; what it had said."""
    journal = path.with_name("journal")
    journal.unlink(missing_ok=True)
    start, heard = time.monotonic(), 0
    child = os.fork()
    if not child:
        _live(life, bundle, path, journal, chance)
    while not said.ready:
        content = journal.read_bytes() if journal.exists() else b""
        content = content[: content.rfind(b"\n") + 1]
        said.hear(content[heard:])
        heard = len(content)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the device ended by itself"
        time.sleep(0.001)
    opening = time.monotonic() - start  # some machines take ten times as long
    time.sleep(min(LONGEST, chance.expovariate(1 / opening)))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the device ended by itself"
    said.hear(journal.read_bytes()[heard:])
    return said


def _live(life, bundle, path, journal, chance):
    """In a fork of its own, which never returns."""
    try:
        told = Journal(os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        with announced(told):
            life(bundle, path, told, chance)
    except BaseException:  # noqa: BLE001 - the parent sees that it ended by itself
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)
