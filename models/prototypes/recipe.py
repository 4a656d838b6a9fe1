"""How a task is learnt, and how far that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgemem.errors import InputError
from edgemem.models.prototypes.losses import RelationAxis, check_axis
from edgemem.printable import shown

MOST = (1 << 31) - 1


@dataclass(frozen=True)
class TaskRecipe:
    """How to learn one task. Defaults are those of the released code of PRD (Asadi et al. 2023).

    `loss = contrastive + prototype_weight * prototype + relation_weight * relation`. SGD at
    `learning_rate`, `momentum` and `weight_decay` for encoder and projection head; prototypes have
    a rate of their own, no momentum and no decay. Rates fall along half a cosine to `rate_at_end`
    times their start, in every task; by default they are constant. The schedule of the released
    code acts in its first task only, and overwrites the prototypes' rate. Nor are there 120 more
    epochs for the first task, as there; pass another recipe for it.

    Raises:
        InputError: a number that makes no sense, or an unknown axis.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    prototype_rate: float = 0.01
    contrast_temperature: float = 0.1
    prototype_weight: float = 2.0
    relation_weight: float = 4.0
    relation_temperature: float = 1.0
    relation_axis: RelationAxis = "samples"
    rate_at_end: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            self._refuse(name, getattr(self, name) < least, f"Use {least} or more")
            self._refuse(name, getattr(self, name) > MOST, f"Use {MOST} or less")
        for name in ("learning_rate", "momentum", "weight_decay", "prototype_rate"):
            self._refuse(name, not self._finite(name) or getattr(self, name) < 0, "Use 0 or more")
        for name in ("prototype_weight", "relation_weight"):
            self._refuse(name, not self._finite(name) or getattr(self, name) < 0, "Use 0 or more")
        for name in ("contrast_temperature", "relation_temperature"):
            wrong = not self._finite(name) or getattr(self, name) <= 0
            self._refuse(name, wrong, "Use a number above 0")
        end = self.rate_at_end
        self._refuse("rate_at_end", not 0 <= end <= 1, "Use a number from 0 to 1")
        check_axis(self.relation_axis)

    def rate_factor(self, step: int, steps: int) -> float:
        """What rates are multiplied by at a step, from 0, of so many steps of a task."""
        fallen = (1 - math.cos(math.pi * step / steps)) / 2
        return 1 - (1 - self.rate_at_end) * fallen

    def _finite(self, name: str) -> bool:
        return math.isfinite(getattr(self, name))

    def _refuse(self, name: str, wrong: bool, remedy: str) -> None:
        if wrong:
            thing = f"{name.replace('_', ' ')} {shown(getattr(self, name))}"
            raise InputError(thing, "is out of range", remedy)


@dataclass(frozen=True)
class TaskProgress:
    """Where learning is: steps done of steps in all, and means over the last 50 steps.

    Attributes:
        loss: the weighted sum.
        contrastive: its terms, without weights.
        prototype: its terms, without weights.
        relation: its terms, without weights.
        accuracy: on the batches themselves, among the classes of the task.
    """

    step: int
    steps: int
    loss: float
    contrastive: float
    prototype: float
    relation: float
    accuracy: float
