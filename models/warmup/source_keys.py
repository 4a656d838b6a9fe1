"""What context keys of source data look like, so that a device can tell a new context from chance.

`warm_up` keeps the moments of some source frames where keys are made. From these, batches of any
size can be drawn again: their keys give the mean key, the map after which their distances are
about one, and the distance that a source batch exceeds once in a thousand (the 0.999 quantile of
ReservoirTTA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.bundle.manifest import POSITIONS
from edgemem.bundle.rows import frames_of, inputs_of
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.norms.moments import frame_moments
from edgemem.models.norms.statistics import AdaptingNorm
from edgemem.models.tasks.task_outputs import summary
from edgemem.models.tensor_rows import Frames

FRAMES, CHUNK = 2048, 64
KEPT_FRAMES, KEPT_BYTES = 512, 8_000_000
DRAWS = 2000
QUANTILE = 0.999
RIDGE = 1e-4  # keeps the map finite where two numbers of the key always agree


@dataclass(frozen=True)
class ObservedKeys:
    """What is known of the keys of source frames.

    Attributes:
        mean: [k] float32.
        whitening: [k, k] float32, with distances as root mean squares: the distance of two keys is
            the length of whitening @ (a - b).
        novelty: a distance.
        entropy: mean of the frozen model's predictions in nats.
        entropy_deviation: over frames.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    novelty: float
    entropy: float
    entropy_deviation: float

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """For the bundle's file of source keys."""
        return {name: np.asarray(value, np.float32) for name, value in vars(self).items()}


def observe_source(
    model: AdaptiveModel,
    frames: NDArray[Any],
    labels: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> None:
    """Keep some source frames [n, ...] in the model, and their labels [n].

    uint8 or float32, token ids, or rows with what comes beside them (`as_rows`).

    Labels where these are known. Of more frames their moments are kept, and how uncertain the
    frozen model is of them.

    No moments are kept where the model has no key.
    """
    order = np.random.default_rng(seed).permutation(len(frames))[:FRAMES]
    kept = order[: _kept(frames)]
    model.source_frames = torch.from_numpy(frames_of(frames[kept]).copy())
    model.source_beside = {
        name: torch.from_numpy(array) for name, array in inputs_of(frames[kept]).items()
    }
    of_kept = None if labels is None else labels[order[: len(model.source_frames)]]
    model.source_labels = None if of_kept is None else torch.from_numpy(of_kept)
    norm = model.key_norm
    if norm is None:
        return
    seen: list[Tensor] = []

    def look(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm.settings.key is None:  # of its first run
            moments = frame_moments(args[0], norm.mean, norm.axis).joined(norm.rows)
            seen.append(torch.stack([moments.mean, moments.square], 1))

    chunks = [
        to_float(frames[np.sort(order[start : start + CHUNK])])
        for start in range(0, len(order), CHUNK)
    ]
    handle = norm.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for x in chunks:
                model(x)
    finally:
        handle.remove()
    model.source_moments = torch.cat(seen)
    model.source_entropies = torch.cat([_entropies(model, x) for x in chunks])


def _entropies(model: AdaptiveModel, x: Frames) -> Tensor:
    """Of the frozen model's predictions for frames [n, ...], in nats, [n]; 0 without classes."""
    own = model.attachment
    if own.task != "classes":
        if own.task not in POSITIONS:
            return torch.zeros(len(x))
        with torch.no_grad():
            return summary(own.task, own.scale, model.untouched_outputs(x), own.named)[:, -1]
    with torch.no_grad():
        log_p = torch.log_softmax(model.frozen_logits(x), 1)
    return -(log_p.exp() * log_p).sum(1)


def source_keys(model: AdaptiveModel, batch: int, seed: int = 0) -> ObservedKeys | None:
    """Keys of source batches of so many frames; None when no source data was observed."""
    if model.source_moments is None or model.source_entropies is None:
        return None
    norm, moments = model.key_norm, model.source_moments.double()
    assert norm is not None, "by which the moments were kept"
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(moments), (DRAWS, batch), generator=generator)
    keys = torch.cat([_keys(norm, moments[part].mean(1)) for part in torch.split(draws, 100)])
    mean, size = keys.mean(0), keys.shape[1]
    covariance = torch.cov(keys.T)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(size, dtype=keys.dtype)
    factor = torch.linalg.cholesky(covariance + ridge)
    whitening = torch.linalg.inv(factor) / size**0.5
    distances = torch.linalg.vector_norm((keys - mean) @ whitening.T, dim=1)
    return ObservedKeys(
        mean.float().numpy(),
        whitening.float().numpy(),
        float(torch.quantile(distances, QUANTILE)),
        float(model.source_entropies.mean()),
        float(model.source_entropies.std()),
    )


def _keys(norm: AdaptingNorm, moments: Tensor) -> Tensor:
    """Pooled moments [n, 2, channels] -> keys [n, 2 * channels], as the norm makes them."""
    shift, square = moments[:, 0], moments[:, 1]
    eps = norm.epsilon
    source = norm.var.double() + eps
    var = square - shift * shift
    return torch.cat([shift / source.sqrt(), 0.5 * torch.log((var + eps) / source)], 1)


def _kept(frames: NDArray[Any]) -> int:
    """How many frames are kept, as they came, within the bounds of number and bytes."""
    return max(1, min(KEPT_FRAMES, KEPT_BYTES // max(frames[:1].nbytes, 1)))
