"""What the comparison of graphs with torch found, and which differences are let through."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgemem.bundle import reference_frames
from edgemem.errors import ExportError
from edgemem.export.checks.differences import difference
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.tensor_rows import Frames, frames_of, with_frames

FIRST_TOLERANCE = 1e-5
LATER_TOLERANCE = 1e-4
SLOT_TOLERANCE = 1e-3
# However much the given model rounds, of one pass, and of slots.
MOST_TOLERANCE, MOST_SLOT_TOLERANCE = 1e-3, 3e-2
SLOT_NOISE = 1e-4  # of the largest slot: those that are smaller may be nothing but rounding
# Times what the given model itself loses in float32: two engines round apart, and approximate
# functions such as erf on their own.
ROOM = 8.0


@dataclass(frozen=True)
class Parity:
    """Largest differences, absolute, or relative to the largest value of an output above one.

    Attributes:
        frozen: zero block and source statistics against the model that was given, on reference
            frames and, where any are known, on frames of its source.
        predict: `predict` against torch.
        first_step: every output of `adapt` but slots against torch.
        slots: first step's optimiser slots (the gradient, for SGD), each relative to its own
            largest value, however small; a wrong gradient can hide in the absolute figures. Where
            rounding moves a slot of torch's own by more, in parts of what it allows.
        batches: reference batches tried until every output had stayed within its limit on one.
            Where some ReLU sits on its kink, the gradients before it are off by a jump in one of
            the two fp32 computations; large networks have such a ReLU somewhere in most batches.
            Outputs of a wrong graph are off on all of them.
        after_steps: the next block over `steps` consecutive steps, each from torch's block; of them
            `updated` changed it.
        predict_equals_adapt: whether both graphs gave bit-equal answers.
        adapted: answers after a step, of both from their own steps.
        adapted_limit: of these: where a last bit of the frames moves those of torch, more.
        rounding: of the model that was given, in float32 against float64; 0 where it computes in
            float32 alone.
    """

    frozen: float
    predict: float
    first_step: float
    worst_output: str
    slots: float
    batches: int
    after_steps: float
    steps: int
    updated: int
    predict_equals_adapt: bool
    adapted: float
    adapted_limit: float
    rounding: float

    @property
    def tolerance(self) -> float:
        """Limit of `frozen`, `predict` and `first_step`."""
        return tolerance(self.rounding)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def check(self, engine: str = "onnxruntime") -> None:
        """Raise ExportError where a difference is above its limit."""
        limits = {
            "frozen outputs": (self.frozen, self.tolerance),
            "predict": (self.predict, self.tolerance),
            f"first step ({self.worst_output})": (self.first_step, self.tolerance),
            "first step, slots relative to their size": (self.slots, SLOT_TOLERANCE),
            f"next block over {self.steps} steps": (self.after_steps, LATER_TOLERANCE),
            "answers after a step": (self.adapted, self.adapted_limit),
        }
        for what, (found, limit) in limits.items():
            if not found <= limit:
                raise ExportError(
                    "parity check",
                    f"{what}: {engine} and torch differ by {found:.1e}, limit {limit:.1g}",
                    "No bundle was written; try a lower learning rate, or report the model",
                )
        if self.updated == 0:
            raise ExportError(
                "parity check",
                "no step changed the block, so nothing was compared",
                "Check that the meta networks get a gradient",
            )


def tolerance(rounding: float) -> float:
    """Limit of one pass, by what the given model loses in float32: deep networks get more."""
    return min(MOST_TOLERANCE, max(FIRST_TOLERANCE, ROOM * rounding))


def adapted_tolerance(rounding: float, moved: float) -> float:
    """Limit of answers after a step, which a last bit of the frames moves so far in torch."""
    least = max(reference_frames.TOLERANCE, tolerance(rounding))
    return min(reference_frames.MOST_TOLERANCE, max(least, ROOM * moved))


def slot_tolerance(rounding: float, share: float) -> float:
    """Limit of a slot that moves so far in torch when frames are off by a last bit.

    share: its size, as a part of the largest slot of its kind; above 0.
    """
    most = max(MOST_SLOT_TOLERANCE, SLOT_NOISE / share)
    return min(most, max(SLOT_TOLERANCE, ROOM * rounding))


def rounding_of(model: AdaptiveModel, batches: Sequence[Frames]) -> float:
    """How far answers of the model that was given are from what it computes in float64."""
    floor = model.attachment.floor if model.attachment.task != "classes" else 1.0
    off = [0.0]
    with torch.no_grad():
        try:
            wide = copy.deepcopy(model).double()
            for x in batches:
                rounded = model.untouched_outputs(x)
                exact = wide.untouched_outputs(with_frames(x, frames_of(x).double()))
                off += [difference(rounded[n].numpy(), exact[n].numpy(), floor) for n in rounded]
        except Exception:  # noqa: BLE001 - the user's own model, which may know of float32 alone
            return 0.0
    return max(off)
