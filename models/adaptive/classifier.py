"""The linear classifier at a network's end: its rows are prototypes, its inputs are features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def features_of(classifier: nn.Linear) -> Iterator[list[Tensor]]:
    """While active, every forward pass adds the classifier's inputs.

    They are features [n, size].
    """
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = classifier.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
