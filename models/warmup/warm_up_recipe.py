"""How to warm up, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass

from edgemem.errors import InputError
from edgemem.printable import shown

MOST = (1 << 31) - 1
LARGEST_RATE = 1e6


@dataclass(frozen=True)
class Recipe:
    """How to train. Defaults are EcoTTA's for CIFAR: SGD with momentum, no weight decay.

    The rate rises linearly over the first epoch, then falls by a cosine to zero.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            thing = f"{name.replace('_', ' ')} {shown(value)}"
            if value < least:
                raise InputError(thing, "is too small", f"Use {least} or more")
            if value > MOST:
                raise InputError(thing, "is too large", f"Use {MOST} or less")
        for name in ("learning_rate", "momentum"):
            if not 0 <= (value := getattr(self, name)) <= LARGEST_RATE:
                thing = f"{name.replace('_', ' ')} {value}"
                raise InputError(thing, "is out of range", f"Use 0 to {LARGEST_RATE:g}")


@dataclass(frozen=True)
class Progress:
    """Where warm-up is: steps done of steps in all, mean loss and accuracy of the last 50."""

    step: int
    steps: int
    loss: float
    accuracy: float
