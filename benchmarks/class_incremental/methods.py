"""All methods by name: how each starts, what it stores, and which numbers were tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.class_incremental.peers.base import Classifier, Learner, Start
from benchmarks.class_incremental.peers.icarl import ICaRL
from benchmarks.class_incremental.peers.prototypes import ContrastiveMeans, Prototypes
from benchmarks.class_incremental.peers.regularised import EWC, LwF
from benchmarks.class_incremental.peers.replay import DER, ER
from edgemem.models.prototypes import TaskRecipe

Numbers = Mapping[str, float]
OURS = "PRD"
JOINT = "joint"
REPLAY_RIVAL = "ER 200"  # PRD's authors claim to be above it in task-incremental accuracy
BUFFERS = (200, 500)


@dataclass(frozen=True)
class Method:
    """module: of `peers`. make: (start, numbers by name) -> learner. chosen: the numbers of the
    table. tried: what the sweep tries instead, one number at a time. stores: samples kept at most.
    """

    module: str
    make: Callable[[Start, Numbers], Learner]
    chosen: Numbers = field(default_factory=dict)
    tried: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stores: int = 0

    def variants(self) -> list[Numbers]:
        """The chosen numbers, then those with another one; nothing if there is no choice."""
        others = [
            {**self.chosen, name: value} for name, values in self.tried.items() for value in values
        ]
        return [self.chosen, *others] if others else []


def _prd(axis: str, chosen: Numbers, tried: Mapping[str, tuple[float, ...]]) -> Method:
    def make(start: Start, numbers: Numbers) -> Learner:
        return Prototypes(start, TaskRecipe(relation_axis=axis, **numbers))  # type: ignore[arg-type]

    return Method("prototypes", make, chosen, tried)


def _replay(kind: str, buffer: int) -> Method:
    if kind == "iCaRL":
        return Method("icarl", lambda start, _: ICaRL(start, buffer), stores=buffer)
    if kind == "ER":
        return Method("replay", lambda start, _: ER(start, buffer), stores=buffer)
    return Method(
        "replay",
        lambda start, numbers: DER(start, buffer, numbers["weight"]),
        {"weight": 1.0},
        {"weight": (0.3, 3.0)} if buffer == BUFFERS[0] else {},  # one sweep for both sizes
        buffer,
    )


# Released: weight 4, temperature 1, and a rate of prototypes of 0.01 for tens of thousands of steps
# a task; here are a hundred.
RELEASED = {"relation_weight": 4.0, "relation_temperature": 1.0, "prototype_rate": 0.5}
PRD = {**RELEASED, "relation_temperature": 0.5}
PRD_TRIED = {
    "relation_temperature": (0.3, 1.0),
    "relation_weight": (1.0, 16.0),
}
METHODS: dict[str, Method] = {
    OURS: _prd("samples", PRD, PRD_TRIED),
    "PRD, along prototypes": _prd("prototypes", RELEASED, {}),
    "PRD, no distillation": _prd("samples", {**PRD, "relation_weight": 0.0}, {}),
    "SupCon + nearest mean": Method("prototypes", lambda start, _: ContrastiveMeans(start)),
    "fine-tuning": Method("base", lambda start, _: Classifier(start)),
    "LwF": Method(
        "regularised",
        lambda start, numbers: LwF(start, numbers["weight"]),
        {"weight": 3.0},
        {"weight": (1.0, 10.0)},
    ),
    "EWC": Method(
        "regularised",
        lambda start, numbers: EWC(start, numbers["weight"]),
        {"weight": 1.0},
        {"weight": (0.1, 10.0)},
    ),
    **{f"{kind} {n}": _replay(kind, n) for kind in ("iCaRL", "ER", "DER") for n in BUFFERS},
    JOINT: Method("base", lambda start, _: Classifier(start)),
}
