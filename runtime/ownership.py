"""Who may use a runtime: one thread at a time, in the process that opened it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from edgemem.errors import InputError

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class Turn:
    """Held while a call runs: the next waits for it, and a fork of the process gets an error.

    Calls of the same thread nest, for a signal may call from within a call.
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened the runtime."""
        return self._process != os.getpid()

    def __enter__(self) -> None:
        # Before the lock, which a thread of the parent may have held when it forked.
        if self.forked:
            raise InputError(
                "runtime",
                f"was opened by process {self._process}, of which this one is a fork",
                "Open the bundle in the process that uses it, after the fork",
            )
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Owned:
    """A thing that one thread uses at a time, that no fork may use, and that has no copies."""

    def __init__(self) -> None:
        self._turn = Turn()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InputError(
            "runtime",
            "cannot be copied or pickled: it owns its state file and its engine",
            "Open the bundle where it is needed; results can be pickled",
        )


def in_turn(
    method: Callable[Concatenate[Any, Arguments], Returned],
) -> Callable[Concatenate[Any, Arguments], Returned]:
    """A method of an `Owned` during which no other thread's call runs."""

    @functools.wraps(method)
    def call(self: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with self._turn:
            return method(self, *args, **kwargs)

    return call
