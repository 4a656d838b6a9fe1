"""How classes that were taught are answered: prototypes beside the classifier, as part of a graph.

The cosine of a frame's features to the prototype of every class tells how likely each new class is,
and what is left for the model's own. That rest is dealt out by the classifier and the prototypes
together, each by its confidence. Read rules of their kin are other weights of the same two: T3A
(Iwasawa & Matsuo, NeurIPS 2021) reads prototypes alone; retrieval-augmented classification
(arXiv 2309.04979) mixes a model with its nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgemem.bundle.manifest import CLOSED
from edgemem.errors import ExportError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.class_prototypes import ClassPrototypes, prototypes_of
from edgemem.printable import shown

Arrays = dict[str, Tensor]

SUMS, FRAMES, SEEN = "prototypes.sums", "prototypes.frames", "prototypes.seen"
# new_classes: 1, new classes are answered, or 0. prototype_share: of prototypes in what is decided
# among the model's own classes; 0 is the classifier alone, 1 prototypes alone. Below 1 it counts
# from the first labelled frame on.
HYPER_PARAMETERS = {"new_classes": 1.0, "prototype_share": 0.5}
READS = {
    "mixed": HYPER_PARAMETERS,
    "prototypes": {"new_classes": 1.0, "prototype_share": 1.0},
    "classifier": {"new_classes": 0.0, "prototype_share": 0.0},
}
SHARPNESS = 16.0  # of a softmax over cosines
SOURCE_WEIGHT = 5.0  # labelled frames that the source's prototype of a class counts for
MOST_SEEN = 64.0  # frames that those taken for a class count for: older ones fade
LEAST = 1e-4
MOST_CLASSES = 1 << 14


@dataclass(frozen=True)
class Reading:
    """The read rule of one model. classifier: its linear one. capacity: classes in the logits."""

    prototypes: ClassPrototypes
    classifier: nn.Linear
    capacity: int

    @property
    def own(self) -> int:
        """The model's own classes."""
        return self.prototypes.source.shape[0]

    def opened(self, block: Arrays, hp: Mapping[str, Tensor]) -> Tensor:
        """[capacity]: 1 for the model's own classes and those that were taught, 0 for others."""
        known = (block[FRAMES] > 0).to(block[FRAMES].dtype) * hp["new_classes"]
        return torch.maximum(known, self._is_own(known))

    def known(self, block: Arrays) -> Tensor:
        """The same, whatever is answered."""
        return self.opened(block, {"new_classes": torch.ones_like(block[FRAMES][0])})

    def directions(self, block: Arrays) -> Tensor:
        """Prototypes [capacity, size] of unit length; zero for a class that is not there."""
        own = SOURCE_WEIGHT * self.prototypes.source + block[SEEN]
        room = own.new_zeros(self.capacity - self.own, own.shape[1])
        return functional.normalize(torch.cat([own, room]) + block[SUMS], dim=1)

    def scores(self, embedded: Tensor, directions: Tensor, opened: Tensor) -> Tensor:
        """[n, capacity] from features [n, size] of unit length."""
        return torch.where(opened > 0, SHARPNESS * embedded @ directions.T, CLOSED)

    def read(
        self, logits: Tensor, features: Tensor, block: Arrays, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """Logits [n, capacity] from the classifier's [n, own] and what it was given [n, size].

        With nothing taught, the first are the classifier's, unless prototypes alone are read.
        """
        opened = self.opened(block, hp)
        embedded = self.prototypes.embedded(features)
        scores = self.scores(embedded, self.directions(block), opened)
        log_p, level = torch.log_softmax(scores, 1), torch.logsumexp(logits, 1, keepdim=True)
        own_p, new_p = torch.split(log_p, [self.own, self.capacity - self.own], 1)
        left = torch.logsumexp(own_p, 1, keepdim=True)
        own = self._own(logits - level, own_p - left, block, hp) + left
        both = torch.cat([own, new_p], 1) + level
        return torch.where(opened > 0, both, CLOSED)

    def seen(self, features: Tensor, probabilities: Tensor, block: Arrays) -> Tensor:
        """What is seen of the model's own classes after one more batch.

        Every frame counts for the class it is taken for, as far as that is certain.
        """
        top = probabilities.max(1, keepdim=True).values
        weights = torch.where(probabilities >= top, probabilities, 0.0)[:, : self.own]
        kept = (1.0 - weights.sum(0) / MOST_SEEN).clamp(min=0.0)
        return kept.unsqueeze(1) * block[SEEN] + weights.T @ self.prototypes.embedded(features)

    def _own(
        self, by_classifier: Tensor, by_prototypes: Tensor, block: Arrays, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """Logarithms of the shares [n, own] of the model's own classes, from two of them."""
        share = hp["prototype_share"]
        taught = (block[FRAMES].sum() > 0).to(share.dtype)
        share = torch.where(share < 1.0, share * taught, share)
        first, second = (
            torch.exp(shares.detach().max(1, keepdim=True).values)
            for shares in (by_prototypes, by_classifier)
        )
        weight = share * first / (share * first + (1.0 - share) * second)
        # In units of the larger of both, so that half precision does not lose them.
        top = torch.maximum(by_prototypes, by_classifier).detach()
        top = torch.where(share < 1.0, top, by_prototypes.detach())
        both = weight * torch.exp(by_prototypes - top)
        both = both + (1.0 - weight) * torch.exp(by_classifier - top)
        return torch.where(share > 0, top + torch.log(both.clamp(min=LEAST)), by_classifier)

    def _is_own(self, like: Tensor) -> Tensor:
        return (torch.arange(self.capacity, device=like.device) < self.own).to(like.dtype)


@contextmanager
def teachable(model: AdaptiveModel, capacity: int) -> Iterator[Reading]:
    """While active, the block of `model` has room for so many classes, its own included.

    Raises:
        ExportError: the model has no linear classifier, or no fewer classes than that.
    """
    if capacity > MOST_CLASSES:
        raise ExportError(
            f"max_classes {shown(capacity)}",
            "is more than a device can keep",
            f"Use {MOST_CLASSES}",
        )
    prototypes = prototypes_of(model)
    if prototypes is None:
        raise ExportError(
            f"max_classes {capacity}",
            "needs features to compare, and the model does not end in a linear layer",
            "Leave it out, or use a model with a linear classifier",
        )
    own = prototypes.source.shape[0]
    if capacity <= own:
        raise ExportError(
            f"max_classes {capacity}",
            f"leaves no room beside the {own} classes of the model",
            f"Use {own + 1} or more, the model's own included",
        )
    classifier = model.classifier
    assert classifier is not None, "where prototypes come from"
    with model.teachable(prototypes, capacity):
        yield Reading(prototypes, classifier, capacity)
