"""Others that are taught on features of one network: means, LDA, a classifier that trains.

Each knows the source features of the model's own classes, and is taught one class after another; it
sees no frame twice in later lessons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

Features = NDArray[np.float64]
Labels = NDArray[np.int64]
EPOCHS = 50  # of fine-tuning on the frames of a class


class Peer(Protocol):
    """Knows the classes 0, 1, … and is taught the next one."""

    def learn(self, features: Features, column: int) -> None:
        """Labelled features [k, size] of one class."""

    def scores(self, features: Features) -> Features:
        """[n, classes known so far], the largest is the answer."""


class NearestMean:
    """The class whose mean is nearest: by cosine, or by Euclid's distance."""

    def __init__(self, features: Features, labels: Labels, *, cosine: bool) -> None:
        self._cosine = cosine
        self._means = list(class_means(features, labels))

    def learn(self, features: Features, column: int) -> None:
        """See `Peer`."""
        assert column == len(self._means), "classes come one after another"
        self._means.append(features.mean(0))

    def scores(self, features: Features) -> Features:
        """See `Peer`."""
        means = np.stack(self._means)
        if self._cosine:
            return features @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
        return -((features[:, None] - means) ** 2).sum(2)


class StreamingLDA:
    """Linear discriminant analysis: means of classes, one covariance within all of them.

    The covariance is the source's, and goes on with labelled frames one by one, as in Hayes & Kanan
    (CVPR workshops 2020). shrinkage: towards the identity, which is scaled by the mean variance if
    `scaled`; theirs is 1e-4, and not scaled.
    """

    def __init__(
        self, features: Features, labels: Labels, *, shrinkage: float, scaled: bool
    ) -> None:
        self._means = list(class_means(features, labels))
        self._counts = np.bincount(labels).tolist()
        within = features - np.stack(self._means)[labels]
        self._covariance, self._seen = within.T @ within / len(features), len(features)
        self._shrinkage, self._scaled = shrinkage, scaled

    def learn(self, features: Features, column: int) -> None:
        """See `Peer`."""
        assert column == len(self._means), "classes come one after another"
        self._means.append(np.zeros(features.shape[1]))
        self._counts.append(0)
        for x in features:
            count = self._counts[column]
            apart = x - self._means[column]
            spread = count / (count + 1) * np.outer(apart, apart)
            self._covariance += (spread - self._covariance) / (self._seen + 1)
            self._means[column] += apart / (count + 1)
            self._counts[column] += 1
            self._seen += 1

    def scores(self, features: Features) -> Features:
        """See `Peer`."""
        level = self._covariance.diagonal().mean() if self._scaled else 1.0
        identity = level * np.eye(len(self._covariance))
        shrunk = (1 - self._shrinkage) * self._covariance + self._shrinkage * identity
        means = np.stack(self._means)
        weights = np.linalg.solve(shrunk, means.T)
        return features @ weights - 0.5 * (means.T * weights).sum(0)


class FineTuned:
    """The model's own classifier, which gets a row for each new class and trains on its frames."""

    def __init__(self, classifier: nn.Linear, learning_rate: float) -> None:
        self._weight = classifier.weight.detach().clone()
        self._bias = classifier.bias.detach().clone()
        self._rate = learning_rate

    def learn(self, features: Features, column: int) -> None:
        """See `Peer`. The new row starts at zero."""
        assert column == len(self._weight), "classes come one after another"
        weight = torch.cat([self._weight, torch.zeros(1, self._weight.shape[1])])
        bias = torch.cat([self._bias, torch.zeros(1)])
        weight.requires_grad_(True)
        bias.requires_grad_(True)
        x, y = torch.from_numpy(features).float(), torch.full((len(features),), column)
        optimizer = torch.optim.SGD([weight, bias], self._rate, momentum=0.9)
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            functional.cross_entropy(functional.linear(x, weight, bias), y).backward()
            optimizer.step()
        self._weight, self._bias = weight.detach(), bias.detach()

    def scores(self, features: Features) -> Features:
        """See `Peer`."""
        logits = functional.linear(torch.from_numpy(features).float(), self._weight, self._bias)
        return logits.double().numpy()


def class_means(features: Features, labels: Labels) -> Features:
    """[classes, size]."""
    return np.stack([features[labels == c].mean(0) for c in range(int(labels.max()) + 1)])


Make = Callable[[Features, Labels, nn.Linear], Peer]


def _mean(*, cosine: bool) -> Make:
    return lambda x, y, _: NearestMean(x, y, cosine=cosine)


def _lda(shrinkage: float, *, scaled: bool) -> Make:
    return lambda x, y, _: StreamingLDA(x, y, shrinkage=shrinkage, scaled=scaled)


def _tuned(learning_rate: float) -> Make:
    return lambda _, __, classifier: FineTuned(classifier, learning_rate)


# By name, in several settings where others might choose another: the table has the best of each,
# chosen on the test part itself, which favours peers.
MEANS: dict[str, dict[str, Make]] = {
    "NCM, cosine": {"": _mean(cosine=True)},
    "NCM, Euclid": {"": _mean(cosine=False)},
    "LDA": {"shrinkage 0.1": _lda(0.1, scaled=True), "shrinkage 1e-4": _lda(1e-4, scaled=False)},
}
PEERS: dict[str, dict[str, Make]] = {
    **MEANS,
    "fine-tuned classifier": {f"rate {rate:g}": _tuned(rate) for rate in (1e-4, 1e-3, 1e-2)},
}
