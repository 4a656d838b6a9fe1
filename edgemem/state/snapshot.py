"""What a runtime needs to go on where it was."""

from __future__ import annotations

from dataclasses import dataclass

from edgemem.block import Arrays


@dataclass(frozen=True)
class Snapshot:
    """What one commit holds.

    Attributes:
        counters: plain numbers by name.
        damage: what of it, or of later ones, is lost, in words.
    """

    arrays: Arrays
    counters: dict[str, int]
    damage: tuple[str, ...] = ()
