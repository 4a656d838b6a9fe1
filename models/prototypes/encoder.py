"""From a classifier to an encoder: the same network, without its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgemem.errors import InputError
from edgemem.models.adaptive.attachment import Normalization


@dataclass(frozen=True)
class EncoderSettings:
    """What of a network is the encoder.

    Attributes:
        head: name of the linear layer to take off; "" = none, for a network that gives features.
        normalization: applied to frames before.
        input_shape: of one frame.
    """

    head: str
    normalization: Normalization | None
    input_shape: tuple[int, ...]


class Encoder(nn.Module):
    """A network whose last linear layer was taken off; frames [n, ...] -> features [n, size]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, settings: EncoderSettings) -> None:
        """Change `network` in place: its head becomes an identity.

        Raises:
            InputError: the head is not a linear layer of the network.
        """
        super().__init__()
        if settings.head:
            _take_off(network, settings.head)
        self.network = network
        shape = [-1] + [1] * (len(settings.input_shape) - 1)
        given = settings.normalization or Normalization((0.0,), (1.0,))
        for name, values in (("mean", given.mean), ("deviation", given.deviation)):
            buffer = torch.tensor(values, dtype=torch.float32).view(shape)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [n, ...] float32 -> features [n, size]."""
        features: Tensor = self.network((x - self.mean) / self.deviation)
        return features.flatten(1)


def last_linear(network: nn.Module) -> str:
    """The name of the last linear layer, or "" where there is none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def feature_size(encoder: Encoder, settings: EncoderSettings) -> int:
    """How many numbers a feature has.

    Raises:
        InputError: frames of that shape do not go through the network.
    """
    try:
        with torch.no_grad():
            features: Tensor = encoder.eval()(torch.zeros(2, *settings.input_shape))
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"frames of {list(settings.input_shape)}",
            f"do not go through the network ({error})",
            "Check --input-shape, --head and --model",
        ) from error
    return features.shape[1]


def _take_off(network: nn.Module, head: str) -> None:
    parent_name, _, name = head.rpartition(".")
    try:
        layer = network.get_submodule(head)
    except AttributeError as error:
        raise InputError(f"--head {head}", "is no layer of the model", "Name a layer") from error
    if not isinstance(layer, nn.Linear):
        kind = type(layer).__name__
        raise InputError(f"--head {head}", f"is a {kind}, not linear", "Name the classifier")
    setattr(network.get_submodule(parent_name), name, nn.Identity())
