"""Statistics and class prior that a block remembers of its context.

A batch with few classes has statistics of those classes rather than of its context. Remembered
moments average over many batches, and every frame weighs as much as its class is rare, so that
they are those of balanced labels; the class prior is estimated beside them and multiplies the
predictions. All arrays are differences that are zero where nothing is remembered yet, and move by
averaging, not by gradient. Of their kin: RoTTA's robust batch normalisation (Yuan et al., CVPR
2023, equation 8) remembers one state for all contexts, and balances by choosing frames; the prior
as in Saerens et al., Neural Computation 2002, equation 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from edgemem.models.joint_arrays import Arrays, Joint
from edgemem.models.norms.moments import FrameMoments

CLASS_PRIOR, FRAMES = "remembered_prior", "remembered_frames"
EVENNESS = "remembered_evenness"
MEAN, VAR = "remembered_mean", "remembered_var"
NAMES = (CLASS_PRIOR, FRAMES, EVENNESS, MEAN, VAR)
# least_batch_weight, even_batch_weight: least weight of the present batch's moments against the
# remembered ones, where batches hold one class, and where they hold all classes alike.
# memory_rate: least share that a batch has in what is remembered.
# prior_weight: exponent of the class prior.
HYPER_PARAMETERS = {
    "least_batch_weight": 0.1,
    "even_batch_weight": 0.6,
    "memory_rate": 0.05,
    "prior_weight": 1.5,
}
OF_MOMENTS = ("least_batch_weight", "memory_rate")  # all that there is without classes
FLOOR = 0.02  # a class that was never seen may still come
MOST_FRAMES = 1e6  # float32 counts exactly up to 1.6e7
SOURCE_FRAMES = 16.0  # the source counts for as many frames when the first batch is remembered


def batch_weight(frames: Tensor, remembered: Arrays, hp: Mapping[str, Tensor]) -> Tensor:
    """Weight of the moments of so many frames against what is remembered; 1 at first.

    The least weight rises with the eighth power of the evenness of past batches: a batch of all
    classes tells more of its context than the past does, one of few classes tells of these. Without
    classes it stays as it is.
    """
    least = hp["least_batch_weight"]
    if EVENNESS in remembered:
        share = remembered[EVENNESS]
        for _ in range(3):
            share = share * share
        least = least + (hp["even_batch_weight"] - least).clamp(min=0.0) * share
    return torch.maximum(least, frames / (frames + remembered[FRAMES]))


def evenness(mean: Tensor, frames: int, classes: Tensor | None = None) -> Tensor:
    """Of a batch's mean prediction [classes]: 1 where no class is rarer than chance makes it.

    Number of classes that the entropy of `mean` stands for, against that of as many frames drawn
    from all classes alike; their expected entropy is ln C - (C - 1) / 2n (Miller, 1955).
    classes: how many there are; None = all.
    """
    entropy = -(mean * torch.log(mean.clamp(min=1e-9))).sum()
    if classes is not None:
        bound = (torch.log(classes) - (classes - 1.0) / (2 * frames)).clamp(min=0.0)
        return ((entropy.exp() - 1.0) / (bound.exp() - 1.0).clamp(min=1.0)).clamp(max=1.0)
    count = len(mean)
    expected = max(math.log(count) - (count - 1) / (2 * frames), 0.0)
    return ((entropy.exp() - 1.0) / max(math.exp(expected) - 1.0, 1.0)).clamp(max=1.0)


def weighed(
    logits: Tensor,
    prior: Tensor,
    hp: Mapping[str, Tensor],
    opened: Tensor | None = None,
    own: int = 0,
) -> Tensor:
    """Logits [n, classes] after the remembered class prior (a difference to the even one).

    Its weight falls with its evenness, for chance and a network's mistakes tilt an even prior, too:
    where its entropy stands for the share e of all classes, it is `prior_weight` times 1 - e^32.
    (An even one was seen at 0.98, a skewed one, blurred by mistakes, at 0.75 to 0.94.) opened:
    [classes], 1 where there is such a class and 0 where there is only room; None = all. own: the
    first so many are weighed; of classes just taught no batch has told how common they are.
    """
    if opened is not None:
        added = _prior_of_opened(prior, hp["prior_weight"], opened)
        is_own = torch.arange(len(opened), device=opened.device) < own
        return logits + torch.where(is_own, added, 0.0)
    classes = logits.shape[1]
    share = (prior + 1.0 / classes).clamp(min=1e-9)
    evenness = torch.exp(-(share * torch.log(share)).sum()) / classes
    for _ in range(5):
        evenness = evenness * evenness
    weight = hp["prior_weight"] * (1.0 - evenness).clamp(min=0.0)
    return logits + weight * torch.log(1.0 + prior / (1.0 / classes + FLOOR))  # zero for zero


def _prior_of_opened(prior: Tensor, weight: Tensor, opened: Tensor) -> Tensor:
    """What `weighed` adds, where some classes are not there."""
    count = opened.sum()
    even = opened / count
    share = (prior + even).clamp(min=1e-9)
    evenness = torch.exp(-(opened * share * torch.log(share)).sum()) / count
    for _ in range(5):
        evenness = evenness * evenness
    weight = weight * (1.0 - evenness).clamp(min=0.0)
    # What is remembered is a difference to the even prior of its time, which falls with every class
    # that is taught: an absent class would be shut out.
    return weight * opened * torch.log(((prior + even).clamp(min=0.0) + FLOOR) / (even + FLOOR))


def next_moments(
    old: Arrays, seen: Mapping[str, tuple[Tensor, FrameMoments]], hp: Mapping[str, Tensor]
) -> Arrays:
    """What is remembered after one more batch where there are no classes: moments alone.

    Every frame weighs alike. Args as of `next_remembered`.
    """
    _, first = next(iter(seen.values()))
    count = len(first.mean)
    frames = old[FRAMES] + float(count)
    rate = _rate(frames, count, hp)
    weights = torch.full_like(first.mean[:, 0], 1.0 / count)
    return {FRAMES: frames.clamp(max=MOST_FRAMES)} | _moved(old, seen, weights, rate)


def next_remembered(
    old: Arrays,
    seen: Mapping[str, tuple[Tensor, FrameMoments]],
    logits: Tensor,
    hp: Mapping[str, Tensor],
    opened: Tensor | None = None,
) -> Arrays:
    """What is remembered after one more batch.

    Args:
        old: arrays by name, those of the norms under the names of their norms.
        seen: per norm, its source variance and the moments of every frame.
        logits: [n, classes], before the class prior: an estimate that fed on itself would drift.
        hp: hyper-parameters by name, scalars.
        opened: as in `weighed`.
    """
    probabilities = torch.softmax(logits, 1)
    classes, mean = logits.shape[1], probabilities.mean(0)
    weights = (probabilities / (mean + FLOOR)).sum(1)
    weights = weights / weights.sum()
    frames = old[FRAMES] + float(len(logits))
    rate = _rate(frames, len(logits), hp)
    prior, level = old[CLASS_PRIOR], 1.0 / classes if opened is None else opened / opened.sum()
    even = evenness(mean, len(logits), None if opened is None else opened.sum())
    new = {
        CLASS_PRIOR: prior + rate.clamp(max=0.5) * (mean - level - prior),
        FRAMES: frames.clamp(max=MOST_FRAMES),
        EVENNESS: torch.minimum(even, old[EVENNESS] + rate * (even - old[EVENNESS])),
    }
    return new | _moved(old, seen, weights, rate)


def _rate(frames: Tensor, count: int, hp: Mapping[str, Tensor]) -> Tensor:
    """Share that a batch of so many frames has in what is remembered, of all frames so far."""
    return torch.maximum(hp["memory_rate"], count / (frames + SOURCE_FRAMES))


def _moved(
    old: Arrays,
    seen: Mapping[str, tuple[Tensor, FrameMoments]],
    weights: Tensor,
    rate: Tensor,
) -> Arrays:
    """Moments of every norm, moved towards those of a batch with these weights [n] of frames."""
    sources = {name: var for name, (var, _) in seen.items()}
    joint = Joint(sources)
    means, squares = zip(*(moments for _, moments in seen.values()), strict=True)
    mean, var = FrameMoments(torch.cat(means, 1), torch.cat(squares, 1)).pooled(weights)
    new: Arrays = {}
    for kind, now in ((MEAN, mean), (VAR, var - joint.vector(sources))):
        before = joint.vector({name: old[f"{name}.{kind}"] for name in seen})
        moved = joint.parts(before + rate * (now - before))
        new |= {f"{name}.{kind}": value for name, value in moved.items()}
    return new
