"""The linear classifier at a network's end: its rows are prototypes, its inputs are features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def classifier_of(network: nn.Module, classes: int) -> nn.Linear | None:
    """The last linear layer with so many outputs, or None."""
    layers = [
        m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == classes
    ]
    return layers[-1] if layers else None


@contextmanager
def features_of(classifier: nn.Linear) -> Iterator[list[Tensor]]:
    """While active, every forward pass adds the features [n, size] that the classifier was given."""
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = classifier.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
