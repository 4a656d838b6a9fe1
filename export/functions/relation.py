"""A regulariser: prototypes keep their relation to the samples of a batch.

Prototype-sample relation distillation (Asadi et al., ICML 2023): how near each prototype is to the
samples, compared among the samples, shall stay as the teacher has it. Here the teacher is the
frozen model, and prototypes are the rows of its classifier, so that no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgemem.errors import ExportError
from edgemem.export.functions.class_reading import Reading
from edgemem.export.functions.objective import HyperParameters, Loss
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.adaptive.outputs import Output
from edgemem.models.prototypes.losses import divergences
from edgemem.models.tensor_rows import Frames


def relation_distance(
    features: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    temperature: Tensor,
    opened: Tensor | None = None,
) -> Tensor:
    """Mean over prototypes of KL(teacher's relations || relations), both over the samples.

    features, teacher: [n, size] of the same samples. prototypes: [classes, size]. A relation is a
    cosine divided by the temperature. opened: [classes], 1 for the prototypes that are there and 0
    for the others; None = all.
    """
    unit = functional.normalize(prototypes, dim=1)
    before, after = (
        functional.normalize(f, dim=1) @ unit.T / temperature for f in (teacher, features)
    )
    distances = divergences(before, after)
    return distances.mean() if opened is None else (distances * opened).sum() / opened.sum()


def keeping_relations(
    model: AdaptiveModel,
    forward: Callable[[], tuple[Output, Tensor]],
    x: Frames,
    block: dict[str, Tensor],
    reading: Reading | None,
) -> tuple[tuple[Output, Tensor], Callable[[Loss, HyperParameters], Loss]]:
    """A forward pass, and what adds the distance of its features' relations to a loss.

    With a reading, the prototypes are those of all classes, taught ones too.

    Raises:
        ExportError: the model has no linear classifier, so no prototypes.
    """
    classifier = _classifier(model)
    with features_of(classifier) as seen:
        output = forward()
        with torch.no_grad():
            model.frozen_logits(x)
    features, teacher = seen
    prototypes: Tensor = classifier.weight
    opened = None
    if reading is not None:
        features, teacher = (reading.prototypes.embedded(f) for f in (features, teacher))
        prototypes, opened = reading.directions(block), reading.known(block)

    def extended(loss: Loss, hp: HyperParameters) -> Loss:
        temperature = hp["relation_temperature"]
        distance = relation_distance(features, teacher, prototypes, temperature, opened)
        value = loss.value + hp["relation_weight"] * distance
        return Loss(value, loss.update, {**loss.stats, "relation": distance})

    return output, extended


def _classifier(model: AdaptiveModel) -> nn.Linear:
    if model.classifier is None:
        raise ExportError(
            "objective 'prototype_relation'",
            "needs prototypes, and the model does not answer by a linear layer",
            "Use --objective likelihood_ratio",
        )
    return model.classifier
