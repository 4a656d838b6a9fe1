"""A cache that is bounded in bytes: what was used least recently goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Values by name, at most `limit` bytes of them; for one thread at a time.

    The size of a value is told when it is put; names and bookkeeping come on top of it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, name: Hashable) -> Value | None:
        """The value, which becomes the most recently used, or None."""
        found = self._values.get(name)
        if found is None:
            return None
        self._values.move_to_end(name)
        return found[0]

    def put(self, name: Hashable, value: Value, size: int) -> None:
        """Keep a value and drop the oldest until all fit; one larger than the limit is not kept."""
        self._drop(name)
        if size > self.limit:
            return
        while self.used + size > self.limit:
            self._drop(next(iter(self._values)))
        self._values[name] = value, size
        self.used += size

    def _drop(self, name: Hashable) -> None:
        found = self._values.pop(name, None)
        if found is not None:
            self.used -= found[1]

    def __contains__(self, name: Hashable) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)
