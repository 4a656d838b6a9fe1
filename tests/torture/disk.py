"""What a power cut may leave on a disk, worked out from a record of all that was written.

Until a file is synced, any part of what was written to it since may be there or not, in any order,
in sectors of 512 bytes. Until its folder is synced, the last names made, removed or changed there
may be as they were before; names change in order, as on file systems with a journal.
"""

import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("disk.c")
HEADER = struct.Struct("=ciqi")
SECTOR = 512
ALL, NOTHING, SIZES, SOME = "all", "nothing", "sizes", "some"  # of what was not synced


class Event(NamedTuple):
    """One change, as in disk.c."""

    kind: str
    file: int
    offset: int
    content: bytes


def built(folder):
    """The library of disk.c; None where there is no C compiler."""
    library = Path(folder, "disk.so")
    command = [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", library, SOURCE]
    try:
        subprocess.run([*command, "-ldl", "-lpthread"], check=True, capture_output=True)
    except FileNotFoundError:
        return None
    return library


def behind(library, folder, log=None):
    """Environment of a process whose folder lies on the disk of this library."""
    watched = {"LD_PRELOAD": str(library), "EDGEMEM_DISK_FOLDER": str(folder)}
    if log is not None:
        watched["EDGEMEM_DISK_LOG"] = str(log)
    return os.environ | watched | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def events_of(log):
    """All changes that a log holds, in order."""
    content, position = log.read_bytes(), 0
    while position < len(content):
        kind, file, offset, length = HEADER.unpack_from(content, position)
        position += HEADER.size
        yield Event(kind.decode(), file, offset, content[position : position + length])
        position += length


@dataclass
class _File:
    """durable: what is on the disk for certain. pending: writes and cuts since the last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)

    def sync(self):
        self.durable, self.pending = self.after(ALL, None), []

    def after(self, kept, chance):
        """The content if this much of what is pending is kept."""
        content = bytearray(self.durable)
        for event in () if kept == NOTHING else self.pending:
            if kept == SOME and event.kind == "T" and chance.random() < 0.5:
                continue
            if event.kind == "T":
                _resize(content, event.offset)
                continue
            for start, part in _parts(event, kept, chance):
                _resize(content, max(len(content), start + len(part)))
                content[start : start + len(part)] = part
        return content


def _parts(event, kept, chance):
    """(place, bytes) of what is kept of one write."""
    content = event.content
    if kept == SIZES:
        return [(event.offset + len(content), b"")]
    fate = chance.randrange(3) if kept == SOME else 0
    if fate == 0:
        return [(event.offset, content)]
    if fate == 1:
        return []
    first = -event.offset % SECTOR
    cuts = [0, *range(first or SECTOR, len(content), SECTOR), len(content)]
    return [(event.offset + a, content[a:b]) for a, b in pairwise(cuts) if chance.random() < 0.5]


def _resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class Disk:
    """One folder, as it is and as it is for certain."""

    def __init__(self):
        self._names, self._durable_names = {}, {}
        self._moves, self._opened = [], {}

    def happen(self, event):
        """Take one change."""
        name = event.content.decode(errors="replace")
        if event.kind == "O":
            self._open(event.file, name, made=bool(event.offset))
        elif event.kind in "WT":
            self._opened[event.file].pending.append(event)
        elif event.kind == "S" and self._opened[event.file] is None:
            self._durable_names, self._moves = dict(self._names), []
        elif event.kind == "S":
            self._opened[event.file].sync()
        else:
            self._move((event.kind, *name.rstrip("\0").split("\0")))

    def _open(self, number, name, *, made):
        if name == ".":
            self._opened[number] = None
            return
        if made:
            self._move(("O", name, _File()))
        self._opened[number] = self._names[name]

    def _move(self, move):
        self._moves.append(move)
        _take(self._names, move)

    def is_named(self, number, name):
        """Whether this opening is of the file that has this name now."""
        return self._opened[number] is self._names.get(name)

    def after_cut(self, kept, chance):
        """Content of every file by name, if this much of what was not synced is kept."""
        names, moves = dict(self._durable_names), len(self._moves)
        count = {NOTHING: 0, SOME: chance.randrange(moves + 1)}.get(kept, moves)
        for move in self._moves[:count]:
            _take(names, move)
        return {name: bytes(file.after(kept, chance)) for name, file in names.items()}


def _take(names, move):
    kind, name, *rest = move
    if kind == "O":
        names[name] = rest[0]
    elif kind == "U":
        names.pop(name, None)
    else:
        names[rest[0]] = names.pop(name)
