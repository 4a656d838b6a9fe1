"""Small commits, and what lies beside their files."""

import sys

import pytest

from edgemem.state.store import Snapshot

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


def number(value):
    return Snapshot({}, {"n": value})


def left(folder):
    return sorted(file.name for file in folder.iterdir())
