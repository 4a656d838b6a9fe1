"""The ladder of guard rails: what becomes of the block when checks of it fail, and how it recovers.

Each failed check is one rung up, and calm ones lead back to the ground in one stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Rung(IntEnum):
    """Where a runtime stands."""

    LEARN = 0  # nothing is wrong
    SKIP = 1  # the block stays as it is
    LAST_GOOD = 2  # the last block that passed a check is back
    SOURCE = 3  # what was learnt in this context is dropped
    FROZEN = 4  # the frozen model answers


# Checks in a row that must pass before a rung is left.
CALM = {Rung.LEARN: 1, Rung.SKIP: 1, Rung.LAST_GOOD: 2, Rung.SOURCE: 2, Rung.FROZEN: 4}


@dataclass(frozen=True)
class Ladder:
    """rung: where it stands. calm: how many checks in a row have passed there."""

    rung: Rung = Rung.LEARN
    calm: int = 0

    def after(self, alarm: bool) -> Ladder:
        """After one more check."""
        if alarm:
            return Ladder(Rung(min(self.rung + 1, Rung.FROZEN)))
        calm = self.calm + 1
        return Ladder() if calm >= CALM[self.rung] else Ladder(self.rung, calm)
