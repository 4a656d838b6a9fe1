"""What a process that was forked must leave alone: it belongs to the process that forked it.

SQLite's connections and an engine's threads do not survive a fork: a child that so much as frees
them can write into the parent's file, or wait for ever for threads that only the parent has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

_owned: WeakSet[Any] = WeakSet()
_in_child: WeakSet[Any] = WeakSet()


def never_free_in_child(thing: object) -> None:
    """Let a forked child keep a thing, and all that it holds, until the child's very end."""
    _owned.add(thing)


def call_in_child(thing: Any) -> None:
    """Let a forked child call `thing.forked()` at its start."""
    _in_child.add(thing)


def _forked() -> None:
    for thing in list(_in_child):
        thing.forked()
    if owned := list(_owned):
        import ctypes  # there is no other way to keep a thing past the end of an interpreter

        keep: Callable[[Any], None] = ctypes.pythonapi.Py_IncRef
        for thing in owned:
            keep(ctypes.py_object(thing))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
