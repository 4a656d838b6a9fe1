"""A day in the life of a device, to be recorded: python recorded.py BUNDLE FOLDER SEED.

It writes s.db in the folder, and what it says to "journal" there, between the same writes.
"""

import os
import random
import shutil
import sys
from contextlib import closing, nullcontext
from pathlib import Path

from device import RIGHT, Journal, announced, batch, holds, knows_cat, lesson, live, opened

from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import State

FLUSHES = 60  # enough for the log to start again from its beginning


def step(runtime, journal, count=1):
    for _ in range(count):
        runtime.step(batch(runtime.counters["steps"]))
        journal.say("taken", runtime.counters["steps"])


def morning(bundle, path, journal, chance):
    """A new state, and more commits than the log holds."""
    with opened(bundle, path) as runtime:
        step(runtime, journal, 130)
        for _ in range(FLUSHES):
            step(runtime, journal, chance.randrange(1, 20))
            runtime.flush()


def noon(bundle, path, journal, chance):
    """Classes are taught, renamed and forgotten; blocks are rolled back."""
    with opened(bundle, path) as runtime:
        for number in range(12):
            step(runtime, journal)
            if knows_cat(runtime) and number % 3 == 0:
                runtime.forget_class("cat")
            else:
                runtime.learn(*lesson(number))
        runtime.rename_class(RIGHT, "port")
        runtime.rollback(chance.choice(["commit", "source", "zero"]))
        step(runtime, journal, 3)


def evening(bundle, path, journal, _):
    """The file is compacted, and taught by blocks from elsewhere."""
    with closing(State(path, None)) as state:
        WrittenBlocks(state).compact()
    blocks, after = _learnt_elsewhere(bundle, path)
    with closing(State(path, None)) as state:
        journal.say("intend", *after)
        import_blocks(state, blocks)
        journal.say("wrote")


def _learnt_elsewhere(bundle, path):
    """Blocks that a copy of the device learnt, and what the state holds once it has taken them."""
    elsewhere = Path(f"{path.parent}-elsewhere")
    elsewhere.mkdir(exist_ok=True)
    copy, blocks = elsewhere / "copy.db", elsewhere / "copy.safetensors"
    shutil.copy(path, copy)
    live(bundle, copy)
    with closing(State(copy, None)) as state:
        export_blocks(state, blocks)
    shutil.copy(path, copy)
    with closing(State(copy, None)) as state:
        import_blocks(state, blocks)
    return blocks, holds(copy)


def main(bundle, folder, seed):
    """Live a day and end in the middle of the next one, without a goodbye."""
    path, chance = Path(folder, "s.db"), random.Random(seed)
    journal = Journal(os.open(Path(folder, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    for part in (morning, noon, evening, noon):
        # In the evening a copy commits, too, which is none of its business.
        with nullcontext() if part is evening else announced(journal):
            part(bundle, path, journal, chance)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
