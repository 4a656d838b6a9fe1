"""Streams of contexts that come back, on CIFAR-10-C: which frames, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from adaptation.streams import correlated
from numpy.typing import NDArray

BATCH, VISIT = 64, 256
CONTEXTS = (
    "gaussian_noise", "impulse_noise", "defocus_blur", "glass_blur", "snow",
    "fog", "contrast", "pixelate", "brightness", "elastic_transform",
)  # fmt: skip
PROTOCOLS = ("balanced", "skewed", "correlated", "contradicting")
CONCENTRATION = 0.3
Images = dict[str, NDArray[np.uint8]]


def class_priors(protocol: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """One class prior per context, [contexts, 10]."""
    if protocol == "skewed":
        return rng.dirichlet([CONCENTRATION] * 10, len(CONTEXTS))
    priors = np.full((len(CONTEXTS), 10), 0.1)
    if protocol == "contradicting":
        priors = np.array(
            [[0.2 * (c // 5 == k % 2) for c in range(10)] for k in range(len(CONTEXTS))]
        )
    return priors


def visits(
    protocol: str, count: int, images: Images, labels: Any, seed: int
) -> Iterator[tuple[int, int, int, NDArray[np.uint8], Any]]:
    """Visit, context, batch within the visit, frames, labels."""
    rng = np.random.default_rng(seed)
    priors = class_priors(protocol, rng)
    of_class = [np.flatnonzero(labels == c) for c in range(10)]
    for visit in range(count):
        for k, name in enumerate(CONTEXTS):
            classes = rng.choice(10, VISIT, p=priors[k])
            if protocol == "correlated":
                classes = correlated(classes, rng)
            chosen = np.array([rng.choice(of_class[c]) for c in classes])
            for batch in range(VISIT // BATCH):
                part = chosen[batch * BATCH : (batch + 1) * BATCH]
                yield visit, k, batch, images[name][part], labels[part]
