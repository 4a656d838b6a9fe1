"""Moments of the source where norms stand, as the network in eval mode sees them.

Statistics of training differ from these: frames were augmented then, and averaged over weights
that moved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.errors import InputError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.inspection.untouched import check_untouched
from edgemem.models.norms.frozen_norm import FrozenNorm
from edgemem.models.norms.moments import batch_moments
from edgemem.models.norms.statistics import AdaptingNorm
from edgemem.models.sites.identity_norm import IdentityNorm
from edgemem.models.tensor_rows import Frames

LEAST, MOST, CHUNK = 32, 2048, 64
COMPARED = 64


def measure_source(model: AdaptiveModel, frames: NDArray[Any], seed: int = 0) -> None:
    """Give every norm of `model` the moments of its input over source frames [n, ...].

    What the model computes at source statistics stays as it was. Frames are uint8 (divided by 255)
    or float32, or rows with what comes beside them (`as_rows`); up to 2,048 are used, drawn by
    `seed`.

    Raises:
        InputError: fewer than 32 frames.
        AttachError: at rest, the model is not the one that was given any more.
    """
    if len(frames) < LEAST:
        raise InputError(
            "source frames",
            f"are {len(frames)}, too few to measure moments on",
            f"Pass {LEAST} or more; some hundreds are better",
        )
    order = np.random.default_rng(seed).permutation(len(frames))[:MOST]
    chunks = [
        to_float(frames[np.sort(order[start : start + CHUNK])])
        for start in range(0, len(order), CHUNK)
    ]
    norms: list[AdaptingNorm] = [
        m for m in model.modules() if isinstance(m, (FrozenNorm, IdentityNorm))
    ]
    for norm, (mean, var) in _moments(model, norms, chunks).items():
        assert isinstance(norm, (FrozenNorm, IdentityNorm))
        norm.take_moments(mean.float(), var.float())
    model.attachment = replace(model.attachment, measured=True)
    check_untouched(model, to_float(frames[order[:COMPARED]]))


def make_measured(model: AdaptiveModel) -> None:
    """Places for measured moments, which a checkpoint fills."""
    for norm in model.modules():
        if isinstance(norm, (FrozenNorm, IdentityNorm)):
            norm.take_moments(norm.mean.clone(), norm.var.clone())


def _moments(
    model: AdaptiveModel, norms: list[AdaptingNorm], chunks: list[Frames]
) -> dict[AdaptingNorm, tuple[Tensor, Tensor]]:
    """Of the inputs of all runs of each norm that runs; chunks count by their frames."""
    sums: dict[AdaptingNorm, list[tuple[float, Tensor, Tensor]]] = {}
    weight = 0.0

    def look(norm: AdaptingNorm, args: tuple[Tensor, ...]) -> None:
        mean, var = batch_moments(args[0].double(), axis=norm.axis)
        sums.setdefault(norm, []).append((weight, mean, var))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        with torch.no_grad():
            for x in chunks:
                weight = float(len(x))
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    return {norm: _pooled(seen) for norm, seen in sums.items()}


def _pooled(seen: list[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Moments of several batches (weight, mean, variance) -> those of them all."""
    weights = torch.tensor([weight for weight, _, _ in seen], dtype=torch.float64)
    weights = weights / weights.sum()
    means, variances = torch.stack([m for _, m, _ in seen]), torch.stack([v for _, _, v in seen])
    mean = weights @ means
    return mean, weights @ (variances + (means - mean).square())
