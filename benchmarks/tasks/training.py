"""Networks of the studies, trained from scratch, and written as ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.tasks.studies import Study, to_tensor
from edgemem.cli.show import progress

BATCH, RATE, SEED = 32, 3e-3, 0


def trained(study: Study, count: int) -> nn.Module:
    """The study's network after its rounds over so many frames."""
    frames, right = study.training(count)
    x, y = to_tensor(frames), study.target(frames, right)
    torch.manual_seed(SEED)
    model = study.network().train()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    batches = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, study.rounds * batches)
    rng = np.random.default_rng(SEED)
    with progress("batches") as bar:
        task = bar.add_task(study.title, total=study.rounds * batches, note="")
        for _ in range(study.rounds):
            for chosen in rng.permutation(len(x))[: batches * BATCH].reshape(-1, BATCH):
                loss = study.loss(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(task, advance=1, note=f"loss {loss.item():.3f}")
    return model.eval()


def write_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """The model as others would give it: one file, any number of frames."""
    frames = torch.export.Dim("frames")
    with torch.no_grad():
        torch.onnx.export(
            model, (torch.zeros(2, *shape),), path, dynamo=True, dynamic_shapes=({0: frames},),
            external_data=False, verbose=False,
        )  # fmt: skip
