"""A disk that refuses, at every write and every sync: the error is clear, and space helps."""

import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from bench import CALLS, FILE_CALLS, Bench
from counts import Row
from device import fast_folder
from disk import behind, built

import edgemem

PAGE = 4096
# A small file system: its size, how many files it takes, and how much of either is left at most.
SIZE, INODES = "8m", 400
MOST_LEFT = {"pages": 48, "inodes": 5}
ROWS = {
    "w": "disk full at a write", "s": "a sync that fails",
    "pages": "tmpfs that is full", "inodes": "tmpfs without inodes",
}  # fmt: skip


class Refused:
    """So many writes (kind "w") or syncs ("s") of a process behind disk.c go through, then none.

    met: whether any was refused. used: how many went through.
    """

    def __init__(self, after, kind):
        self._library, self._after, self._kind = ctypes.CDLL(None), after, kind
        self._library.disk_refuse.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_char
        self.met, self.used = False, 0

    def __enter__(self):
        code = errno.ENOSPC if self._kind == "w" else errno.EIO
        self._library.disk_refuse(self._after, code, self._kind.encode())

    def __exit__(self, *error):
        self.met = self._library.disk_refused() > 0
        self.used = self._after - self._library.disk_left()
        self._library.disk_refuse(-1, 0, b"w")


class Full:
    """A file system on which so many pages, or inodes, are left. met: whether they were too few."""

    def __init__(self, folder, after, kind):
        self._fill, self._after, self._kind = Path(folder, "fill"), after, kind
        self.met = False

    def _free(self):
        found = os.statvfs(self._fill)
        return found.f_favail if self._kind == "inodes" else found.f_bavail

    def __enter__(self):
        self._fill.mkdir()
        (self._fill / "pages").touch()
        too_many = max(0, self._free() - self._after)
        if self._kind == "inodes":
            for number in range(too_many):
                (self._fill / str(number)).touch()
        else:
            (self._fill / "pages").write_bytes(bytes(too_many * PAGE))

    def __exit__(self, kind, *error):
        self.met = kind is not None or self._free() == 0
        shutil.rmtree(self._fill)


def run(bundle, seed, most, told, calls=(*CALLS, *FILE_CALLS), code=""):
    """Refuse at each write and sync of calls, or at so many of them; a row for each kind of
    refusal. told: called after each. code: run first by the process whose disk refuses."""
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        return [
            *_behind_disk(bundle, seed, most, told, calls, code),
            *_on_small_disks(bundle, folder, most, told, calls),
        ]


def _behind_disk(bundle, seed, most, told, calls, code):
    with fast_folder() as folder:
        library, watched = built(folder), Path(folder, "watched")
        if library is None:
            reason = "there is no C compiler: install cc"
            return [Row(ROWS[kind], losses=None, skipped=reason) for kind in "ws"]
        watched.mkdir()
        words = [str(bundle), str(watched), seed, most, calls]
        program = f"{code}\nimport refusals\nrefusals.main(*{words!r})"
        command = [sys.executable, "-W", "ignore", "-c", program]
        # What SQLite writes for a while only is refused, too.
        environment = behind(library, watched) | {"SQLITE_TMPDIR": str(watched)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if line.startswith("["):
                    return [Row(**row) for row in json.loads(line)]
                told()
        raise RuntimeError(f"the refused device failed: exit {child.returncode}")


def main(bundle, folder, seed, most, calls):
    """In a process behind disk.c: print a line for each case, and the rows at the end."""
    rows = [Row(ROWS[kind], losses=None) for kind in "ws"]
    for row, kind in zip(rows, "ws", strict=True):
        place = Path(folder, kind)
        place.mkdir()
        bench = Bench(Path(bundle), place, edgemem.StateError)
        for name in calls:
            every = range(_calls_of_the_disk(bench, name, kind))
            few = len(every) <= most
            for after in every if few else random.Random(f"{seed} {name}").sample(every, most):
                _one(row, bench, name, Refused(after, kind), f"{name}, {after} went through")
                print(flush=True)
    print(json.dumps([row.as_dict() for row in rows]), flush=True)


def _calls_of_the_disk(bench, name, kind):
    counting = Refused(10**9, kind)
    verdict, _ = bench.faulted(name, counting)
    if verdict.wrong:
        raise RuntimeError(f"{name} fails on a sound disk: {verdict.wrong}")
    return counting.used


def _on_small_disks(bundle, folder, most, told, calls):
    for kind, left in MOST_LEFT.items():
        row = Row(ROWS[kind], losses=None)
        try:
            with _mounted(Path(folder, kind)) as place:
                bench = Bench(bundle, place, edgemem.StateError)
                for name in calls:
                    for after in range(0, left, max(1, left // most)):
                        _one(
                            row,
                            bench,
                            name,
                            Full(place, after, kind),
                            f"{name}, {after} {kind} left",
                        )
                        told()
        except _CannotMountError:
            row.skipped = "only root may mount a file system"
        yield row


class _CannotMountError(Exception):
    pass


@contextmanager
def _mounted(place):
    place.mkdir()
    options = f"size={SIZE},nr_inodes={INODES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        raise _CannotMountError
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _one(row, bench, name, fault, case):
    verdict, files = bench.faulted(name, fault)
    if fault.met:
        row.add(verdict, case, files)
