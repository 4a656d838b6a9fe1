"""Class prototypes: where features of each class lie, and room for classes taught on a device.

Features are what the classifier is given. They are centred and whitened by what source data vary
within a class, as linear discriminant analysis does, and then of unit length, so that a cosine to
a prototype weighs every direction by how much it tells. Of every class the source's prototype is
known; what a device adds are sums of features, so that blocks of contexts can be added and shared
in parts, and a prototype is the direction of a sum.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.data import Frames, to_float

OBSERVED, CHUNK = 4096, 64  # source frames
LEAST_OF_CLASS = 16
SHRINKAGE = 0.1  # of the covariance, towards a multiple of the identity
LARGEST = 1024  # features that are whitened; its map is as large as its square


class ClassPrototypes(nn.Module):
    """center: [size], whitening: [size, size], source: [classes, size], of unit length.

    sums, frames and seen are arrays of the block, once there is room. sums: [capacity, size], of
    the features of labelled frames. frames: [capacity], how many. seen: [classes, size], features
    that were taken for a class of the model's own, in a decaying sum.
    """

    sums: Tensor | None
    frames: Tensor | None
    seen: Tensor | None

    def __init__(self, center: Tensor, whitening: Tensor, source: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("whitening", whitening)
        self.register_buffer("source", source)
        self.center: Tensor
        self.whitening: Tensor
        self.source: Tensor
        for name in ("sums", "frames", "seen"):
            self.register_buffer(name, None)

    def make_room(self, capacity: int) -> None:
        """Room for so many classes, the model's own included; 0 = none."""
        size = self.source.shape[1]
        self.sums = torch.zeros(capacity, size) if capacity else None
        self.frames = torch.zeros(capacity) if capacity else None
        self.seen = torch.zeros_like(self.source) if capacity else None

    def arrays(self) -> dict[str, Tensor]:
        """Those of the block, by name."""
        return dict(self._arrays())

    def _arrays(self) -> list[tuple[str, Tensor]]:
        found = [(name, getattr(self, name)) for name in ("sums", "frames", "seen")]
        return [(name, array) for name, array in found if array is not None]

    def embedded(self, features: Tensor) -> Tensor:
        """Features [n, size] as they are compared."""
        return functional.normalize((features - self.center) @ self.whitening, dim=1)


def observe_classes(
    model: AdaptiveModel, frames: Frames, labels: NDArray[np.int64], seed: int = 0
) -> None:
    """Keep in the model where features of some source frames lie; see `ClassPrototypes`.

    frames: [n, ...] uint8 or float32. labels: [n]. Nothing is kept where the model has no linear
    classifier, or some class has fewer than two frames.
    """
    order = _some_of_each(labels, seed)
    alpha = model.alpha(CHUNK)
    weight = None if alpha is None else torch.tensor(alpha)
    with torch.no_grad():
        classes = model.frozen_logits(to_float(frames[:2])).shape[1]
        classifier = model.classifier
        y = torch.from_numpy(labels[order].astype(np.int64))
        if classifier is None or int(torch.bincount(y, minlength=classes).min()) < 2:
            return
        with features_of(classifier) as seen:
            for start in range(0, len(order), CHUNK):
                model(to_float(frames[order[start : start + CHUNK]]), weight)
        model.prototypes = _prototypes(torch.cat(seen), y, classes)


def _some_of_each(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Places of some frames in random order, of all classes as many, as far as there are."""
    order = np.random.default_rng(seed).permutation(len(labels))
    most = max(LEAST_OF_CLASS, OBSERVED // (int(labels.max()) + 1))
    rank = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        own = labels[order] == c
        rank[own] = np.arange(own.sum())
    return order[rank < most]


def _prototypes(features: Tensor, labels: Tensor, classes: int) -> ClassPrototypes:
    x = features.double()
    means = torch.stack([x[labels == c].mean(0) for c in range(classes)])
    center, size = means.mean(0), x.shape[1]
    whitening = torch.eye(size, dtype=x.dtype)
    if size <= LARGEST:
        within = x - means[labels]
        covariance = within.T @ within / len(x)
        level = covariance.diagonal().mean().clamp(min=1e-12)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * whitening
        values, vectors = torch.linalg.eigh(shrunk)
        whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    found = ClassPrototypes(center.float(), whitening.float(), means.float())
    embedded = found.embedded(features)
    sums = torch.stack([embedded[labels == c].sum(0) for c in range(classes)])
    found.source = functional.normalize(sums, dim=1)
    return found


def prototypes_of(model: AdaptiveModel) -> ClassPrototypes | None:
    """Those that were observed; else the rows of the classifier; None where there is neither."""
    if model.prototypes is not None:
        return model.prototypes
    if model.classifier is None:
        return None
    rows = model.classifier.weight.detach()
    size = rows.shape[1]
    unit = functional.normalize(rows, dim=1)
    return ClassPrototypes(torch.zeros(size), torch.eye(size), unit)
