"""What context keys of source data look like, so that a device can tell a new context from chance.

`warm_up` keeps the moments of some source frames where keys are made. From these, batches of any
size can be drawn again: their keys give the mean key, the map after which their distances are
about one, and the distance that a source batch exceeds once in a thousand (the 0.999 quantile of
ReservoirTTA).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.models.adaptive import AdaptiveModel
from edgemem.models.data import Frames, to_float
from edgemem.models.moments import frame_moments
from edgemem.models.statistics import FrozenNorm

FRAMES, CHUNK = 2048, 64
DRAWS = 2000
QUANTILE = 0.999
RIDGE = 1e-4  # keeps the map finite where two numbers of the key always agree


@dataclass(frozen=True)
class SourceKeys:
    """mean: [k] float32. whitening: [k, k] float32, with distances as root mean squares: the
    distance of two keys is the length of whitening @ (a - b). novelty: a distance."""

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    novelty: float

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """For the bundle's file of source keys."""
        novelty = np.asarray(self.novelty, np.float32)
        return {"mean": self.mean, "whitening": self.whitening, "novelty": novelty}


def observe_source(model: AdaptiveModel, frames: Frames, seed: int = 0) -> None:
    """Keep the moments of some source frames [n, ...] (uint8 or float32) in the model."""
    norm = key_norm(model)
    order = np.random.default_rng(seed).permutation(len(frames))[:FRAMES]
    seen: list[Tensor] = []

    def look(_: torch.nn.Module, args: tuple[Tensor]) -> None:
        moments = frame_moments(args[0], norm.mean)
        seen.append(torch.stack([moments.mean, moments.square], 1))

    handle = norm.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for start in range(0, len(order), CHUNK):
                model(to_float(frames[np.sort(order[start : start + CHUNK])]))
    finally:
        handle.remove()
    model.source_moments = torch.cat(seen)


def source_keys(model: AdaptiveModel, batch: int, seed: int = 0) -> SourceKeys | None:
    """Keys of source batches of so many frames; None when no source data was observed."""
    if model.source_moments is None:
        return None
    norm, moments = key_norm(model), model.source_moments.double()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(moments), (DRAWS, batch), generator=generator)
    keys = torch.cat([_keys(norm, moments[part].mean(1)) for part in torch.split(draws, 100)])
    mean, size = keys.mean(0), keys.shape[1]
    covariance = torch.cov(keys.T)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(size, dtype=keys.dtype)
    factor = torch.linalg.cholesky(covariance + ridge)
    whitening = torch.linalg.inv(factor) / size**0.5
    distances = torch.linalg.vector_norm((keys - mean) @ whitening.T, dim=1)
    return SourceKeys(
        mean.float().numpy(),
        whitening.float().numpy(),
        float(torch.quantile(distances, QUANTILE)),
    )


def _keys(norm: FrozenNorm, moments: Tensor) -> Tensor:
    """Pooled moments [n, 2, channels] -> keys [n, 2 * channels], as `FrozenNorm` makes them."""
    shift, square = moments[:, 0], moments[:, 1]
    source = norm.var.double() + norm.eps
    var = square - shift * shift
    return torch.cat([shift / source.sqrt(), 0.5 * torch.log((var + norm.eps) / source)], 1)


def key_norm(model: AdaptiveModel) -> FrozenNorm:
    """The norm whose input context keys are made from."""
    return next(m for m in model.frozen.modules() if isinstance(m, FrozenNorm) and m.is_key)
