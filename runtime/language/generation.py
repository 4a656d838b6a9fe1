"""How an answer is generated, and which token comes next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.printable import shown

MOST_TOKENS = 1 << 24
MOST_STOPS = 64
LONGEST_STOP = 1024
MOST_TEMPERATURE = 100.0


@dataclass(frozen=True)
class Generation:
    """How an answer is generated.

    Attributes:
        max_tokens: most tokens of an answer.
        temperature: what logits are divided by before a token is drawn; 0 = always the likeliest.
        top_p: tokens are drawn among the fewest that have this probability together.
        seed: the same seed draws the same tokens.
        stop: text, or texts, that end an answer; they are no part of it.

    Raises:
        InputError: a value that cannot be.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _whole("max_tokens", self.max_tokens, 1)
        _whole("seed", self.seed, 0)
        _number("temperature", self.temperature, 0.0, MOST_TEMPERATURE)
        _number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise InputError("top_p=0", "leaves no token", "Pass more than 0, or temperature=0")
        given: Any = (self.stop,) if isinstance(self.stop, str) else self.stop
        texts = tuple(given) if isinstance(given, tuple | list) else (None,)
        if len(texts) > MOST_STOPS or not all(
            isinstance(text, str) and 0 < len(text) <= LONGEST_STOP for text in texts
        ):
            reason = "are not at most 64 texts of 1 to 1,024 characters"
            raise InputError(f"stop={shown(self.stop)}", reason, 'Pass such as stop=("\\n",)')
        object.__setattr__(self, "stop", texts)


def next_token(logits: NDArray[np.float32], how: Generation, random: np.random.Generator) -> int:
    """The id of the next token, from logits [vocabulary]; the lowest of equally likely ones."""
    if how.temperature == 0:
        return int(logits.argmax())
    wide = logits.astype(np.float64)
    shares = np.exp((wide - wide.max()) / how.temperature)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    below = np.cumsum(shares[order]) - shares[order]  # of those before each
    kept = order[below < how.top_p]
    reached = np.cumsum(shares[kept])
    drawn = int(np.searchsorted(reached, random.random() * reached[-1], side="right"))
    return int(kept[min(drawn, len(kept) - 1)])


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name}={shown(value)}", "is no whole number", f"Pass {least} or more")
    if not least <= value <= MOST_TOKENS:
        reason = f"is not from {least} to {MOST_TOKENS:,}"
        raise InputError(f"{name}={shown(value)}", reason, f"Pass {least} or more")


def _number(name: str, value: object, least: float, most: float) -> None:
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type,operator]
        reason = f"is not a number from {least:g} to {most:g}"
        raise InputError(f"{name}={shown(value)}", reason, "Pass such as 0.8")
