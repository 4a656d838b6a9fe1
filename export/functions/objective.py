"""What an adaptation step minimises. A step is chosen at export; the runtime knows none of this.

Entropies are of rows of logits: of frames, or, for other tasks than classes, of pixels (as EcoTTA
does for segmentation), of the steps of a sequence (SUTA, Lin et al., Interspeech 2022; SGEM, Kim et
al., Interspeech 2023) or of labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edgemem.models.adaptive.outputs import Output

HyperParameters = Mapping[str, Tensor]
SMALLEST_VAR = 1e-6  # of a channel that is always the same
ALIKE = 1e-3  # differences below it are rounding


class Loss(NamedTuple):
    """What an objective gives for one batch.

    Attributes:
        value: scalar to minimise.
        update: scalar bool, False = leave everything as it is.
        stats: scalars to watch, by name.
    """

    value: Tensor
    update: Tensor
    stats: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """A named loss, with the defaults of the hyper-parameters it reads.

    Attributes:
        exercise: hyper-parameters under which every batch leads to an update, for the parity check.
        relation: whether prototypes shall keep their relation to the samples, too (`relation.py`).
        learns: whether anything follows its gradient; if not, the step is a forward pass.
        of_moments: whether it compares moments of frames, which blocks note that remember.
        subspace: whether features shall stay as the source's (`subspace.py`).
    """

    name: str
    hyper_parameters: dict[str, float]
    loss: Callable[[Output, HyperParameters], Loss]
    exercise: dict[str, float] = field(default_factory=dict)
    relation: bool = False
    learns: bool = True
    of_moments: bool = False
    subspace: bool = False


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each prediction in nats, [n]."""
    log_p = torch.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def ecotta(classes: int) -> Objective:
    """Entropy of reliable samples + weight * L1 to the frozen outputs (EcoTTA, equation 4).

    Reliable is an entropy below 0.4 ln C, as in EATA. The two terms share one step here, while
    the published code takes two.
    """

    def loss(output: Output, hp: HyperParameters) -> Loss:
        entropy = entropies(output.logits)
        reliable = (entropy.detach() < hp["entropy_margin"]).to(entropy.dtype)
        count = reliable.sum()
        value = (reliable * entropy).sum() / count.clamp(min=1.0)
        distance = sum(output.distances, start=entropy.new_zeros(()))
        value = value + hp["regularization_weight"] * distance
        stats = {
            "entropy": entropy.mean(),
            "reliable": count / entropy.shape[0],
            "distance": distance,
        }
        return Loss(value, count > 0, stats)

    margin = 0.4 * math.log(classes)
    return Objective(
        "ecotta",
        {"entropy_margin": margin, "regularization_weight": 0.25},
        loss,
        exercise={"entropy_margin": 2 * math.log(classes)},
    )


def tent(classes: int) -> Objective:
    """Mean entropy of all samples (Tent, Wang et al. 2021, section 3)."""

    def loss(output: Output, hp: HyperParameters) -> Loss:
        entropy = entropies(output.logits).mean()
        return Loss(entropy, torch.isfinite(entropy), {"entropy": entropy})

    return Objective("tent", {}, loss)


def likelihood_ratio(classes: int) -> Objective:
    """Weighted soft likelihood ratio + weight * L1 to the frozen outputs.

    ROID (Marsden et al., WACV 2024): each sample's loss is -sum p log(p / (1 - p)), p up to
    `highest_probability`, and weighs the more, the more certain the prediction is and the less it
    is like the mean one; those whose diversity is below `diversity_margin` times the mean weigh
    nothing. The mean prediction is the batch's own, where the published code averages over
    batches, and diversities that differ by less than 0.001 count as equal.
    """

    def loss(output: Output, hp: HyperParameters) -> Loss:
        probabilities = torch.softmax(output.logits, 1)
        p = torch.minimum(probabilities, hp["highest_probability"])
        losses = -(p * torch.log(p / (1.0 - p) + 1e-5)).sum(1)
        entropy = entropies(output.logits)
        weights = _weights(probabilities.detach(), entropy.detach(), hp)
        value = (weights * losses).mean()
        distance = sum(output.distances, start=entropy.new_zeros(()))
        value = value + hp["regularization_weight"] * distance
        stats = {"entropy": entropy.mean(), "distance": distance}
        return Loss(value, torch.isfinite(value), stats)

    defaults = {
        "regularization_weight": 0.25,
        "weight_sharpness": 3.0,
        "diversity_margin": 1.0,
        "highest_probability": 0.99,
    }
    # A threshold would let rounding decide which samples count; near 0.99 the ratio multiplies it,
    # and so do weights where predictions are nearly alike.
    exercise = {"diversity_margin": -1.0, "highest_probability": 0.5, "weight_sharpness": 0.1}
    return Objective("likelihood_ratio", defaults, loss, exercise)


def prototype_relation(classes: int) -> Objective:
    """The likelihood ratio, with prototypes that keep their relation to the samples."""
    base = likelihood_ratio(classes)
    own = {"relation_weight": 1.0, "relation_temperature": 0.1}
    parameters = base.hyper_parameters | own
    return replace(base, name="prototype_relation", hyper_parameters=parameters, relation=True)


def statistics(classes: int) -> Objective:
    """Nothing: a step without a backward pass, for processors that cannot run one.

    What the block remembers still moves: moments of every norm and the class prior. classes: 0
    where there are none to be certain of; the loss is zero then, as long as the outputs are finite.
    """
    base = tent(classes) if classes else Objective("", {}, _nothing)
    return replace(base, name="statistics", learns=False)


def alignment(classes: int) -> Objective:
    """Distance of the batch's moments from the source's, for outputs of any kind.

    ActMAD (Mirza et al., CVPR 2023, equation 3): the L1 distances of means and of variances, here
    of the input of every norm that remembers, over its channels in units of the source's deviation
    and variance, so that every channel counts alike. classes: not used.
    """

    def loss(output: Output, hp: HyperParameters) -> Loss:
        parts = []
        for source_var, moments in output.seen.values():
            even = torch.full_like(moments.mean[:, 0], 1.0 / len(moments.mean))
            distance, var = moments.pooled(even)
            unit = source_var.clamp(min=SMALLEST_VAR)
            parts.append((distance.abs() / unit.sqrt() + (var - source_var).abs() / unit).mean())
        value = torch.stack(parts).mean()
        return Loss(value, torch.isfinite(value), {"distance": value.detach()})

    return Objective("alignment", {}, loss, of_moments=True)


def subspace_alignment(classes: int) -> Objective:
    """Distance of a regressor's features from the source's, see `subspace.py`.

    classes: not used.
    """
    return Objective("subspace_alignment", {}, _nothing, subspace=True)


def _nothing(output: Output, hp: HyperParameters) -> Loss:
    zero = torch.stack([value.mean() * 0.0 for value in output.named.values()]).sum()
    return Loss(zero, torch.isfinite(zero), {})


def _weights(probabilities: Tensor, entropy: Tensor, hp: HyperParameters) -> Tensor:
    """Weight of each sample, [n]."""
    mean = probabilities.mean(0)
    towards = torch.mm(probabilities, mean.view(-1, 1)).view(-1)
    likeness = towards / (probabilities.norm(dim=1) * mean.norm())
    diversity = _rescaled(1.0 - likeness)
    weights = torch.exp(hp["weight_sharpness"] * diversity * _rescaled(-entropy))
    enough = diversity + ALIKE >= hp["diversity_margin"] * diversity.mean()
    return weights * enough.to(weights.dtype)


def _rescaled(values: Tensor) -> Tensor:
    """From 0 to 1 within the batch; from 0 to less where values hardly differ."""
    low = values.min()
    return (values - low) / (values.max() - low).clamp(min=ALIKE)


OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "alignment": alignment,
    "ecotta": ecotta,
    "likelihood_ratio": likelihood_ratio,
    "prototype_relation": prototype_relation,
    "statistics": statistics,
    "subspace_alignment": subspace_alignment,
    "tent": tent,
}
