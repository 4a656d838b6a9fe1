"""What a method of test-time adaptation is to the harness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Augment = Callable[[Tensor], Tensor]


class Method(Protocol):
    """Answers frame batches, and learns from them."""

    def predict(self, frames: Tensor) -> Tensor:
        """Logits [n, classes] of frames [n, ...] with what has been learnt; learns nothing."""

    def adapt(self, frames: Tensor) -> Tensor:
        """Logits [n, classes] that the method answers with; it then has learnt from the frames."""


@dataclass(frozen=True)
class Source:
    """What a method may use before deployment.

    frames: [n, ...] float32 source frames as the model takes them. labels: [n] int64. classes: how
    many. augment: random view of a batch of frames, for methods that need one. parts: of the model,
    for methods with networks beside them; warmed: what these learnt from source frames.
    """

    frames: Tensor
    labels: Tensor
    classes: int
    augment: Augment
    parts: tuple[str, ...] = ()
    warmed: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Peer:
    """make: (frozen model in eval mode, source, learning rate) -> method; it copies the model.

    learning_rate: as published; 0.0 = the method has none. paper: authors, venue, year.
    """

    make: Callable[[nn.Module, Source, float], Method]
    learning_rate: float
    paper: str


def copied(model: nn.Module) -> nn.Module:
    """A copy to adapt, in eval mode, without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """All batch norms of a model."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [module for module in model.modules() if isinstance(module, kinds)]


def use_batch_statistics(model: nn.Module) -> None:
    """Norms take the statistics of each batch, in eval mode too."""
    for norm in batch_norms(model):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None


def norm_affine(model: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of all batch norms, now trainable; a model may name its own."""
    own = getattr(model, "norm_parameters", None)
    parameters = [p for norm in batch_norms(model) for p in (norm.weight, norm.bias)]
    parameters = own() if own is not None else parameters
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@contextmanager
def captured_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """While active, what enters the classifier [n, k] is appended to the list, pass by pass."""
    seen: list[Tensor] = []
    handle = classifier(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each prediction in nats, [n]."""
    log_p = torch.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)
