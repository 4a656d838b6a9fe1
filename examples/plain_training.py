"""Ordinary training of the examples' small networks, before anything adapts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn


def train(
    model: nn.Module, x: torch.Tensor, labels: NDArray[np.int64], epochs: int, batch: int
) -> nn.Module:
    """Train in place, on frames as the model takes them; the model, in eval mode."""
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(model.train()(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
