"""The graph `learn`: a few labelled frames teach classes, new ones or the model's own.

Prototype-sample relation distillation (Asadi et al., ICML 2023) on the device: a labelled frame
adds its features to the prototype of its class, and one gradient step draws the features of
labelled frames to their prototypes while those of all known classes keep their relation to the
frames of the batch, as the frozen model and the prototypes so far have it. No frame is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import vjp

from edgemem.bundle.manifest import CLOSED, FILLED, LABELS
from edgemem.export.functions.class_reading import FRAMES, SUMS, Reading
from edgemem.export.functions.forward import (
    Arrays,
    Function,
    answer,
    detached,
    forward,
    predict_parameters,
    prefixed,
    present_rows,
    rows_of,
    strip,
    weighed_by_frames,
)
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import Gradient
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.prototypes.losses import divergences
from edgemem.models.tensor_rows import Frames, named_tensors

# learn_rate: of the gradient step; 0 leaves only what is added to prototypes.
HYPER_PARAMETERS = {"learn_rate": 1e-3, "relation_weight": 1.0, "relation_temperature": 0.1}


def learn_function(
    model: AdaptiveModel,
    frames: Frames,
    reading: Reading,
    gradient: Gradient,
    *,
    learns: bool,
) -> Function:
    """x, y, filled, block, hyper-parameters -> logits, key, next block, stats.

    y: [n] int64, the class of each frame, -1 for one without label, which only takes part in the
    statistics and relations. The logits are those before. learns: whether there is a gradient step.
    """
    block, learned = detached(model.block()), list(model.learned()) if learns else []
    labels = torch.full((frames.shape[0],), -1)
    labels[0], labels[1] = 0, reading.capacity - 1
    scalars = predict_parameters(model, frames.shape[0]) | (HYPER_PARAMETERS if learns else {})
    inputs = {
        **named_tensors(frames),
        LABELS: labels,
        FILLED: torch.tensor(float(frames.shape[0])),
        **prefixed("block", block),
        **prefixed("hp", {name: torch.tensor(value) for name, value in scalars.items()}),
    }
    full = float(frames.shape[0])

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(list(inputs)[1:], flat, strict=True))
        old, count, rows = strip("block", values), values[FILLED], rows_of(x, values)
        present = present_rows(x, count)
        hp = weighed_by_frames(model, old, count, full, strip("hp", values))
        wanted = values[LABELS].unsqueeze(1) == torch.arange(reading.capacity, device=x.device)
        given = wanted.to(count.dtype) * present.unsqueeze(1)

        def loss(arrays: Arrays) -> tuple[Tensor, tuple[Arrays, Tensor, Tensor, Tensor]]:
            output, features = forward(
                model, old | arrays, rows, count, hp, gradient, present=present, reading=reading
            )
            embedded = reading.prototypes.embedded(features)
            taught = {
                SUMS: old[SUMS] + given.T @ embedded.detach(),
                FRAMES: old[FRAMES] + given.sum(0),
            }
            logits = answer(model, output, old, count, hp, present, reading)
            if not learns:
                distance = value = (output.logits * 0.0).sum()
                return value, (taught, logits, output.key, distance)
            value = _label_loss(reading, embedded, old | taught, given)
            distance = _relation_distance(model, reading, rows, embedded, old, taught, present, hp)
            total = value + hp["relation_weight"] * distance
            return total, (taught, logits, output.key, distance)

        new = dict(old)
        if learns:
            value, pullback, aux = vjp(loss, {n: old[n] for n in learned}, has_aux=True)  # type: ignore[misc]
            (grads,) = pullback(torch.ones_like(value))
            new |= {n: old[n] - hp["learn_rate"] * grads[n] for n in learned}
        else:
            value, aux = loss({})
        taught, logits, key, distance = aux
        new |= taught
        sums = torch.stack([array.sum() for array in new.values()]).sum()
        updated = torch.isfinite(value + sums) & (given.sum() > 0)
        next_block = [torch.where(updated, new[name], old[name]) for name in block]
        return (logits, key, *next_block, distance, value, updated.to(count.dtype))

    outputs = (
        "logits",
        "key",
        *prefixed("next.block", block),
        "stat.relation",
        "stat.loss",
        "stat.updated",
    )
    return Function(inputs, outputs, call, dynamic_batch=False)


def _label_loss(reading: Reading, embedded: Tensor, block: Arrays, given: Tensor) -> Tensor:
    """Mean cross-entropy of labelled frames: every class that was ever taught takes part."""
    scores = reading.scores(embedded, reading.directions(block), reading.known(block))
    return -(given * torch.log_softmax(scores, 1)).sum() / given.sum().clamp(min=1.0)


def _relation_distance(
    model: AdaptiveModel,
    reading: Reading,
    x: Frames,
    embedded: Tensor,
    old: Arrays,
    taught: Arrays,
    present: Tensor,
    hp: Mapping[str, Tensor],
) -> Tensor:
    """Mean over known classes of KL(relations before || after), over frames that are there.

    Before: the frozen model's features and the prototypes so far.
    """
    with torch.no_grad(), features_of(reading.classifier) as seen:
        model.frozen_logits(x)
    before = reading.prototypes.embedded(seen[0])
    known = reading.known(old)
    rows = present.unsqueeze(1) > 0
    was, now = (
        torch.where(rows, f @ reading.directions(b).T / hp["relation_temperature"], CLOSED)
        for f, b in ((before, old), (embedded, old | taught))
    )
    return (divergences(was, now) * known).sum() / known.sum()
