"""Build the bundle of this example: train a small network on simulated pockets, warm up, export.

Needs the extra `export` (torch, onnx); the example itself does not.

    python examples/sensors/build.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from motion import ACTIVITIES, LENGTH, source_place, window

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plain_training import train

from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks.conv1d import Conv1d

PARTS = ("blocks[0:1]", "blocks[1:2]", "blocks[2:3]")
WIDTH = 24
WINDOWS = 3000  # 600 of each activity, every one of another person and pocket
BUNDLE = Path(__file__).parent / "activities.edgemem"


def source_windows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows [count, 3, 128] float32 from front pockets, and labels [count]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(ACTIVITIES)
    return np.stack([window(ACTIVITIES[k], source_place(rng), rng) for k in labels]), labels


def main() -> None:
    """Train, warm up, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=BUNDLE, help="bundle to write")
    out = parser.parse_args().out
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, labels = source_windows(WINDOWS, seed=0)
    model = Conv1d(3, len(ACTIVITIES), LENGTH, WIDTH)
    train(model, torch.from_numpy(frames), labels, epochs=15, batch=32)

    adaptive = attach(model, PARTS, torch.from_numpy(frames[:2]), statistics="remembered")
    warm_up(adaptive, frames, labels, Recipe(epochs=10, batch_size=16))
    origin = {"data": "simulated by motion.py", "model": f"Conv1d of width {WIDTH}"}
    print(export_bundle(adaptive, out, Choices(labels=ACTIVITIES), source=origin))


if __name__ == "__main__":
    main()
