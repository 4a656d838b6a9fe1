"""Text to tokens and back, with the tokenizer of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgemem.errors import BundleError, InputError, MissingExtraError
from edgemem.files.typed_json import HALVES
from edgemem.printable import shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream


class Tokens:
    """A tokenizer.

    Raises:
        MissingExtraError: the library tokenizers is not installed.
        BundleError: it does not take the file.
    """

    def __init__(self, content: bytes, thing: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError("tokenizers", "lm") from error
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # whatever the library stumbles over, it is the file
            reason = f"is no tokenizer ({error})"
            raise BundleError(thing, reason, "Export the bundle again") from error
        # Settings of whoever trained with it.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, what: str = "prompt") -> list[int]:
        """Ids of a text, with those that the tokenizer puts before and behind.

        Raises:
            InputError: it is no text, or empty.
        """
        if not isinstance(text, str):
            raise InputError(f"{what} {shown(text)}", "is no text", "Pass a str")
        if HALVES.search(text):
            raise InputError(what, "is not UTF-8", "Read it with encoding='utf-8'")
        if not text.strip():
            raise InputError(what, "is empty", "Pass some text")
        ids: list[int] = self._tokenizer.encode(text).ids
        if not ids:
            raise InputError(what, "has no token", "Pass other text")
        return ids

    def stream(self, before: Sequence[int]) -> TextStream:
        """What turns further ids into text, after those before."""
        return TextStream(self._tokenizer, before)


class TextStream:
    """Text of ids as they come, each character once it is whole."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream: DecodeStream = DecodeStream(ids=list(before), skip_special_tokens=True)

    def text(self, token: int) -> str:
        """What one more id adds."""
        return self._stream.step(self._tokenizer, token) or ""


class StopText:
    """Text up to the first of some texts; what may become one of them is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.found = False

    def add(self, text: str) -> str:
        """What can be shown now that this came."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found, self._held = True, self._held[: min(places)]
            return self.rest()
        keep = max((_begun(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        out, self._held = self._held, ""
        return out


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
