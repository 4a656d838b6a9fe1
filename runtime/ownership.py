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
    """Whose call may run.

    lock: held while a call runs, so that the next waits for it; taken by `with`, which no interrupt
    can come between.

    Calls of the same thread nest, for a signal may call from within a call.
    """

    def __init__(self) -> None:
        self.lock, self._process = threading.RLock(), os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened the runtime."""
        return self._process != os.getpid()

    def require_process(self) -> None:
        """Before the lock, which a thread of the parent may have held when it forked.

        Raises:
            InputError: this process is a fork.
        """
        if self.forked:
            raise InputError(
                "runtime",
                f"was opened by process {self._process}, of which this one is a fork",
                "Open the bundle in the process that uses it, after the fork",
            )


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
        self._turn.require_process()
        with self._turn.lock:
            return method(self, *args, **kwargs)

    return call
