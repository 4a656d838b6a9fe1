"""A KeyboardInterrupt at every line of a call: the file is whole, and the runtime goes on."""

import random
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench import CALLS, FILE_CALLS, Bench
from counts import Row
from device import fast_folder

import edgemem

OURS = tuple(str(Path(module.__file__).parent) for module in (edgemem, edgemem.runtime))


ROUNDS = 12  # after which a device has as many blocks and versions as it keeps
TRIES = 3  # calls until one comes to the line again: contexts change every three steps


class Place(NamedTuple):
    """A line of ours. said: how often the device had announced or acknowledged a commit: what comes
    after a commit is another place than the same line before it."""

    file: str
    line: int
    said: int


class Interrupt:
    """Interrupts a call when it has come to a place so many times; None = never.

    places: how often the call came to each. met: whether it was interrupted.
    """

    def __init__(self, bench, place=None, times=0):
        self._bench, self._place, self._left = bench, place, times
        self.places, self.met = Counter(), False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._called)

    def __exit__(self, *error):
        sys.settrace(self._before)

    def _called(self, frame, event, _):
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame, event, _):
        if event != "line":
            return self._line
        here = Place(frame.f_code.co_filename, frame.f_lineno, self._bench.said.heard)
        if self._place is None:
            self.places[here] += 1
        elif here == self._place:
            self._left -= 1
            if self._left == 0:
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
            for place, times in _moments(bench, name, random.Random(f"{seed} {name}"), most):
                _one(row, bench, name, place, times)
                told()
    return rows


def _one(row, bench, name, place, times):
    for _ in range(TRIES):
        interrupt = Interrupt(bench, place, times)
        verdict, files = bench.faulted(name, interrupt)
        if interrupt.met:
            where = f"{Path(place.file).name} line {place.line}"
            row.add(verdict, f"{where}, time {times} after {place.said} words", files)
            return


def _moments(bench, name, chance, most):
    """When to interrupt: the first and the last time that a call comes to each place."""
    places = {}
    for number in range(ROUNDS + TRIES):
        counting = Interrupt(bench)
        verdict, _ = bench.faulted(name, counting)
        if verdict.wrong:
            raise RuntimeError(f"{name} fails without an interrupt: {verdict.wrong}")
        if number >= ROUNDS:
            for place, times in counting.places.items():
                places[place] = min(times, places.get(place, times))
    every = {(place, times) for place, last in places.items() for times in (1, last)}
    return sorted(every if len(every) <= most else chance.sample(sorted(every), most))
