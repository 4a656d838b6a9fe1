"""An answer of a language model, as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgemem.block import Array
from edgemem.bundle.text.text_manifest import TextSpec
from edgemem.runtime.language.decoding import Decoding
from edgemem.runtime.language.generation import Generation, next_token
from edgemem.runtime.language.tokens import StopText, TextStream
from edgemem.runtime.result import Event

FETCHED, GENERIC, OFF = "fetched", "generic", "off"


class Finish(StrEnum):
    """Why an answer ends.

    Attributes:
        END: the model ended it.
        STOP: one of the texts that end it came.
        LENGTH: it has as many tokens as it may.
        CONTEXT: prompt and answer fill the context of the model.
    """

    END = "end"
    STOP = "stop"
    LENGTH = "length"
    CONTEXT = "context"


@dataclass(frozen=True)
class Memory:
    """The block that a text is read with.

    Attributes:
        kind: "fetched", "generic", or "off".
        arrays: of the block, by their names in the graph.
        path: of a fetched block, such as "3/51"; else empty.
        denied: whether the path ends, or nothing was read, where access is denied.
        events: what went wrong on the way.
    """

    kind: str
    arrays: Mapping[str, Array]
    path: str = ""
    denied: bool = False
    events: tuple[Event, ...] = ()


class Generated:
    """An answer: an iterator over its pieces of text.

    Attributes:
        text: what came so far.
        tokens: ids of it, that of an end included.
        finish: why it ended; None while it goes on.
        memory: the block that it was read with.
        prompt_tokens: how many tokens the prompt has.
    """

    def __init__(
        self,
        decoding: Decoding,
        ids: list[int],
        stream: TextStream,
        spec: TextSpec,
        how: Generation,
        memory: Memory,
    ) -> None:
        self.text, self.tokens = "", list[int]()
        self.finish: Finish | None = None
        self.memory, self.prompt_tokens = memory, len(ids)
        self._decoding, self._waiting = decoding, ids
        self._stream, self._stop = stream, StopText(how.stop)
        self._spec, self._how = spec, how
        self._random = np.random.default_rng(how.seed)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened besides generating, such as a damaged block."""
        return self.memory.events

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while self.finish is None:
            if piece := self._advance():
                self.text += piece
                return piece
        raise StopIteration

    def all(self) -> str:
        """The whole answer, when it is there."""
        for _ in self:
            pass
        return self.text

    def _advance(self) -> str:
        """One more token; the text that can be shown now, which may be none."""
        logits = self._decoding.add(self._waiting)[0]
        token = next_token(logits, self._how, self._random)
        self._waiting = [token]
        self.tokens.append(token)
        if token in self._spec.end:
            self.finish = Finish.END
            return self._stop.rest()
        piece = self._stop.add(self._stream.text(token))
        if self._stop.found:
            self.finish = Finish.STOP
            return piece
        if len(self.tokens) >= self._how.max_tokens:
            self.finish = Finish.LENGTH
        elif self.prompt_tokens + len(self.tokens) >= self._spec.context:
            self.finish = Finish.CONTEXT
        return piece if self.finish is None else piece + self._stop.rest()
