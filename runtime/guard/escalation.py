"""Escalation of guard rails: what becomes of the block when checks of it fail, and how it recovers.

Each failed check is one rung up, and calm ones lead back to the ground in one stride, later each
time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum


class Rung(IntEnum):
    """Where a runtime stands."""

    LEARN = 0  # nothing is wrong
    SKIP = 1  # the block stays as it is
    LAST_GOOD = 2  # the last block that passed a check is back
    SOURCE = 3  # what was learnt in this context is dropped
    FROZEN = 4  # the frozen model answers


# Checks in a row that must pass before a rung is left; twice as many for every relapse.
CALM = {Rung.LEARN: 16, Rung.SKIP: 1, Rung.LAST_GOOD: 2, Rung.SOURCE: 2, Rung.FROZEN: 4}
MOST_RELAPSES = 8


@dataclass(frozen=True)
class Escalation:
    """How far failed checks have led.

    Attributes:
        rung: where it stands.
        calm: how many checks in a row have passed there.
        relapses: how often learning has led to an alarm lately; calm times on the ground make up
            for them.
    """

    rung: Rung = Rung.LEARN
    calm: int = 0
    relapses: int = 0

    def after(self, alarm: bool) -> Escalation:
        """After one more check."""
        learning = self.rung is Rung.LEARN
        if alarm:
            rung = Rung(min(self.rung + 1, Rung.FROZEN))
            return Escalation(rung, 0, min(self.relapses + learning, MOST_RELAPSES))
        calm = self.calm + 1
        if learning and calm >= CALM[Rung.LEARN]:
            return Escalation(relapses=max(self.relapses - 1, 0))
        if not learning and calm >= CALM[self.rung] << max(self.relapses - 1, 0):
            return Escalation(relapses=self.relapses)
        return replace(self, calm=calm)
