"""Which parts of a model could be named, for messages."""

from __future__ import annotations

from torch import nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
MOST = 4


def suggested_parts(model: nn.Module) -> list[str]:
    """Names of some parts: containers, or else what runs."""
    named = list(model.named_modules())
    containers = [name for name, child in named if isinstance(child, nn.Sequential) and name]
    # Those of a file hold layers and do not run themselves.
    running = [name for name, child in model.named_children() if type(child) is not nn.Module]
    layers = [name for name, child in named if isinstance(child, LAYERS)]
    return (containers or running or layers)[:MOST]
