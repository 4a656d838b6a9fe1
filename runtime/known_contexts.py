"""What is known of contexts, made when it is first needed: a prediction need not wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgemem.bundle import Bundle

if TYPE_CHECKING:
    from edgemem.runtime.context_memory import ContextMemory
    from edgemem.state import State

GENERIC = "generic"


class KnownContexts:
    """follows: whether contexts are told apart at all. memory: what is known; None until needed."""

    def __init__(self, bundle: Bundle, state: State | None, follows: bool) -> None:
        self._bundle, self._state, self._follows = bundle, state, follows
        self.memory: ContextMemory | None = None

    def get(self) -> ContextMemory | None:
        """What is known; None where contexts are not told apart."""
        if self.memory is None and (memory := self.open()) is not None:
            memory.load({}, {}, None)
        return self.memory

    def open(self) -> ContextMemory | None:
        """Make it before it is needed, for `load` to follow."""
        if self._follows:
            from edgemem.runtime.context_memory import ContextMemory

            self.memory = ContextMemory(self._bundle, self._state)
        return self.memory

    @property
    def name(self) -> str:
        """Of the present context."""
        return GENERIC if self.memory is None else self.memory.name

    @property
    def drift(self) -> float | None:
        """See `ContextMemory`; None where contexts are not told apart."""
        if self.memory is None:
            return 0.0 if self._follows else None
        return self.memory.drift

    def close(self, *, wait: bool = True) -> None:
        """Close the files of the shipped bank. wait: for a read that is under way, not for ever."""
        if self.memory is not None:
            self.memory.close(wait=wait)
