"""The three losses of prototype-sample relation distillation, as pure functions.

Asadi et al., "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning", ICML
2023. Where the paper leaves a choice, it is that of the authors' released code, and named as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemem.errors import InputError

RelationAxis = Literal["samples", "prototypes"]
AXES: tuple[str, ...] = get_args(RelationAxis)
BASE_TEMPERATURE = 0.07  # of the released code: the loss is scaled by temperature / 0.07


def cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of every feature and every prototype.

    features: [n, size]. prototypes: [classes, size]. Returns [n, classes].
    """
    return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T


def supervised_contrastive_loss(
    projections: Tensor, labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """Draw projections of one class together, and those of different classes apart.

    For anchor i with positives P(i), the other rows of its class, and s = cosine / temperature:
    `-1/|P(i)| * sum_{p in P(i)} log(exp(s_ip) / sum_{a != i} exp(s_ia))`, the mean over anchors
    (Khosla et al., NeurIPS 2020: the sum over positives is outside of the logarithm). Times
    temperature / 0.07, as in the released code. An anchor without positives does not count.

    Args:
        projections: [n, size], of any length.
        labels: [n] integers.
        temperature: divides the cosines.

    Returns:
        A scalar; 0 without pairs.
    """
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None]) & ~own
    scores = cosines(projections, projections) / temperature
    log_shares = torch.log_softmax(scores.masked_fill(own, -torch.inf), 1)
    # Zeros where no positive is: the diagonal is minus infinity, and 0 * inf is not a number.
    sums = log_shares.masked_fill(~positive, 0.0).sum(1)
    count = positive.sum(1)
    anchors = (count > 0).sum().clamp(min=1)
    return -(temperature / BASE_TEMPERATURE) * (sums / count.clamp(min=1)).sum() / anchors


def prototype_loss(features: Tensor, prototypes: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine between a feature and the prototype of its class; trains prototypes only.

    No gradient goes into the features: the representation is left to the other losses.

    Args:
        features: [n, size].
        prototypes: [classes, size].
        targets: [n] rows of `prototypes`.
    """
    return (1 - F.cosine_similarity(features.detach(), prototypes[targets], dim=1)).mean()


def relations(features: Tensor, prototypes: Tensor, axis: RelationAxis) -> Tensor:
    """Scores [n, classes] that are compared along an axis.

    "samples": cosines. "prototypes": as in the released code, the prototypes are of unit length and
    the features are not.
    """
    if axis == "samples":
        return cosines(features, prototypes)
    return features @ F.normalize(prototypes, dim=1).T


def relation_distillation(
    features: Tensor,
    prototypes: Tensor,
    old_features: Tensor,
    old_prototypes: Tensor,
    *,
    temperature: float = 1.0,
    relation_axis: RelationAxis = "samples",
) -> Tensor:
    """How far the relations of one old task's prototypes to the samples are from what they were.

    KL(softmax(old / temperature) || softmax(new / temperature)) of the scores of `relations`.

    - "samples", as the paper describes it: each old prototype keeps its ordering of the samples.
    The
      softmax is over the batch; mean over prototypes.
    - "prototypes", as in the released code: each sample keeps its ordering of the task's
    prototypes.
      The softmax is over them; mean over samples. The code has the cross-entropy, which is larger
          by
      the entropy of the old relations, and has the same gradient.

    features, old_features: [n, size] of the same samples, now and by the previous model.
    prototypes, old_prototypes: [classes, size] of the same classes. No gradient goes into the old
    ones. Returns a scalar, at least 0.

    Raises:
        InputError: an unknown axis.
    """
    check_axis(relation_axis)
    new = relations(features, prototypes, relation_axis)
    old = relations(old_features.detach(), old_prototypes.detach(), relation_axis)
    over = 0 if relation_axis == "samples" else 1
    return divergences(old / temperature, new / temperature, over).mean()


def divergences(before: Tensor, after: Tensor, over: int = 0) -> Tensor:
    """KL(softmax(before) || softmax(after)) along an axis of scores [n, classes].

    Over the samples by default, so one for each class.
    """
    was, now = (torch.log_softmax(scores, over) for scores in (before, after))
    return (was.exp() * (was - now)).sum(over)


def relation_distillation_of_tasks(
    features: Tensor,
    prototypes: Sequence[Tensor],
    old_features: Tensor,
    old_prototypes: Sequence[Tensor],
    *,
    temperature: float = 1.0,
    relation_axis: RelationAxis = "samples",
) -> Tensor:
    """Sum of `relation_distillation` over old tasks, whose prototypes are items of the lists.

    `prototypes` may hold more tasks than `old_prototypes`: those are new, and left out.
    """
    total = features.new_zeros(())
    for now, before in zip(prototypes, old_prototypes, strict=False):
        total = total + relation_distillation(
            features,
            now,
            old_features,
            before,
            temperature=temperature,
            relation_axis=relation_axis,
        )
    return total


def check_axis(axis: str) -> None:
    """Refuse an axis that is not known.

    Raises:
        InputError: it is not one of `AXES`.
    """
    if axis not in AXES:
        raise InputError(f"relation axis {axis!r}", "is unknown", f"Use one of {', '.join(AXES)}")
