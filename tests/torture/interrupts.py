"""A KeyboardInterrupt at every line of a call: the file is whole, and the runtime goes on."""

import random
import sys
from collections import defaultdict
from pathlib import Path

from bench import CALLS, FILE_CALLS, Bench
from counts import Row
from device import fast_folder

import edgemem

OURS = tuple(str(Path(module.__file__).parent) for module in (edgemem, edgemem.runtime))


class Interrupt:
    """Interrupts a call when it has come to so many of our lines; None = never.

    places: file and line of each, as far as it came. met: whether it interrupted.
    """

    def __init__(self, after=None):
        self._after, self.places, self.met = after, [], False

    def __enter__(self):
        sys.settrace(self._called)

    def __exit__(self, *error):
        sys.settrace(None)

    def _called(self, frame, event, _):
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame, event, _):
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) - 1 == self._after:
                sys.settrace(None)
                self.met = True
                raise KeyboardInterrupt
        return self._line


def run(bundle, seed, most, told, calls=(*CALLS, *FILE_CALLS)):
    """Interrupt calls at each of their lines, or at so many at most; a row for each call. told:
    called after each case."""
    rows = []
    with fast_folder() as folder:
        for name in calls:
            row = Row(f"interrupted: {name}", losses=None)
            rows.append(row)
            Path(folder, name).mkdir()
            bench = Bench(bundle, Path(folder, name), KeyboardInterrupt)
            for after in _moments(bench, name, random.Random(f"{seed} {name}"), most):
                interrupt = Interrupt(after)
                verdict, files = bench.faulted(name, interrupt)
                if interrupt.met:
                    file, line = interrupt.places[-1]
                    row.add(verdict, f"line {after}, {Path(file).name}:{line}", files)
                told()
    return rows


def _moments(bench, name, chance, most):
    """When to interrupt: the first and the last time that a call comes to each of its lines, and
    one time in between."""
    counting = Interrupt()
    verdict, _ = bench.faulted(name, counting)
    if verdict.wrong:
        raise RuntimeError(f"{name} fails without an interrupt: {verdict.wrong}")
    times = defaultdict(list)
    for number, place in enumerate(counting.places):
        times[place].append(number)
    found = {n for all_ in times.values() for n in (all_[0], all_[-1], chance.choice(all_))}
    return sorted(found if len(found) <= most else chance.sample(sorted(found), most))
