"""The class of a frame, read beside its neighbours in time: a hidden Markov chain over one batch.

What a device sees next is often what it sees now. The chain: a frame keeps the class of the frame
before with some probability, or else draws it from the batch's class prior. Both are estimated from
the batch's own predictions by rounds of expectation maximisation, so frames in random order, of all
classes alike, are answered much as they would be one by one. Forward and backward messages as in
Rabiner, Proc. IEEE 1989, section III, passed on by one frame a round instead of along the whole
batch; the prior as in Saerens et al., Neural Computation 2002, equation 2.9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HYPER_PARAMETERS = {"label_order": 1.0}  # weight of the neighbours; 0: every frame on its own
ROUNDS = 6  # a message reaches as many frames
PRIOR_FRAMES = 32.0  # an even class prior counts for as many frames: batches are small samples
MOST_LASTING = 0.98
ROUNDING = 1e-4  # beside the chance of a batch of one class
# Networks are too certain of what they get wrong. Where frames do go on as they were, their
# neighbours contradict such certainty: the logits are divided by up to 1 + DOUBT.
DOUBT = 2.0
LEAST = 1e-6


def in_order(
    logits: Tensor,
    frames: Tensor,
    weight: Tensor,
    present: Tensor | None = None,
    opened: Tensor | None = None,
) -> Tensor:
    """Logits [n, classes] of frames in order of time, after what their neighbours say.

    frames: how many, as a scalar tensor. weight: see `HYPER_PARAMETERS`; at 0 the logits come back
    exactly. present: [n], one for each frame and zero for what fills the batch up after them;
    None = n frames. What fills up says that all classes are alike, so its neighbour hears nothing.
    opened: [classes], 1 where there is such a class and 0 where there is only room; None = all.
    """
    classes = logits.shape[1]
    log_p = torch.log_softmax(logits.detach(), 1)
    if present is not None:
        present = present.unsqueeze(1)
        log_p = present * log_p + (1.0 - present) * -math.log(classes)
    even, none = torch.full_like(log_p[:1], 1.0 / classes), torch.zeros_like(log_p[:1])
    before = after = torch.full_like(log_p, 1.0 / classes)
    alike: float | Tensor = PRIOR_FRAMES / classes
    if opened is not None:
        # Of a class that is not there a little is left, lest a logarithm be infinite.
        even = torch.maximum(opened / opened.sum(), torch.full_like(opened, LEAST)).unsqueeze(0)
        before = after = torch.zeros_like(log_p) + even
        alike = PRIOR_FRAMES * even
    p, lasting = log_p.exp(), frames * 0.0
    for _ in range(ROUNDS):
        seen = p if present is None else p * present
        shares = seen.sum(0, keepdim=True) / frames if present is not None else p.mean(0, True)
        prior = (frames * shares + alike) / (frames + PRIOR_FRAMES)
        agreement = (seen * torch.cat([none, p])[:-1]).sum() / (frames - 1.0).clamp(min=1.0)
        # How much more often neighbours agree than frames in random order would: not with the
        # prior, which hides how rare classes are, for then few classes would pass for order.
        chance = (shares * shares).sum()
        lasting = ((agreement - chance) / (1.0 - chance + ROUNDING)).clamp(0.0, MOST_LASTING)
        own = torch.softmax(log_p / (1.0 + DOUBT * lasting), 1)
        forward, backward = messages(own, before, after, prior, lasting)
        # Slices as long as the batch: shorter ones cannot be traced for batches of any size.
        before = torch.cat([prior, forward])[:-1]
        after = torch.cat([backward, even])[1:]
        p = _shares(own * before * after)
    if opened is not None:
        told = [torch.log((side / even).clamp(min=LEAST)) for side in (before, after)]
        read = logits / (1.0 + weight * DOUBT * lasting) + weight * (told[0] + told[1])
        return torch.where(opened > 0, read, logits)
    neighbours = torch.log(classes * before) + torch.log(classes * after)
    return logits / (1.0 + weight * DOUBT * lasting) + weight * neighbours


def messages(
    own: Tensor, before: Tensor, after: Tensor, prior: Tensor, lasting: Tensor
) -> tuple[Tensor, Tensor]:
    """What every frame tells the next one and the one before it; [n, classes] each.

    own: what a frame itself says. before, after: what it was told from either side. prior:
    [1, classes]. lasting: scalar tensor, the probability that a class goes on.
    """
    leaving = (1.0 - lasting) * prior
    forward = lasting * _shares(own * before) + leaving
    seen = _shares(own * after)
    return forward, _shares(lasting * seen + (leaving * seen).sum(1, keepdim=True))


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(1, keepdim=True)
