"""Random networks made a little like trained ones: norms that fit, and answers that differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEVIATION = 2.0  # of logits over frames
MOST = 100.0  # times the answers are enlarged; rounding errors grow with them
CHUNK = 32
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def calibrate(model: nn.Module, frames: Tensor) -> None:
    """Measure statistics of BatchNorms over frames [n, ...], and scale what gives the logits."""
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment] - the mean over all passes
        norm.train()
    with torch.no_grad():
        for part in torch.split(frames, CHUNK):
            model(part)
        model.eval()
        logits = answers(model, frames)
        for head in _heads(model, logits.shape[1]) if logits.dim() == 2 else []:
            if not head.weight.any():  # as some networks begin their training
                nn.init.xavier_uniform_(head.weight)
                logits = answers(model, frames)
        _scale(model, logits)


def answers(model: nn.Module, frames: Tensor) -> Tensor:
    """What a model says of frames [n, ...]."""
    with torch.no_grad():
        found = [model(part) for part in torch.split(frames, CHUNK)]
    return torch.cat([getattr(part, "logits", part) for part in found])


def _scale(model: nn.Module, logits: Tensor) -> None:
    """Heads that are linear get what is missing; others stay as they are."""
    if logits.dim() != 2:
        return
    mean, deviation = logits.mean(0), float(logits.std(0).mean())
    times = min(DEVIATION / max(deviation, 1e-9), MOST)
    for head in _heads(model, logits.shape[1]):
        head.weight.mul_(times)
        if head.bias is not None:
            head.bias.mul_(times)
            if isinstance(head, nn.Linear):
                head.bias.sub_(times * mean)


def _heads(model: nn.Module, classes: int) -> list[nn.Linear | nn.Conv2d]:
    """Layers of as many outputs as there are classes. Several of them are averaged (LeViT)."""
    return [
        module
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.shape[0] == classes
    ]
