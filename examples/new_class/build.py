"""Build what this example runs: a network that knows the digits 0 to 6, and frames of all ten.

Data: the 1,797 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten Digits,
CC BY 4.0). Those of 0 to 6 among the first 1,000 train the network, each moved by up to a pixel;
the frames are the other 797. Needs the extra `export` (torch, onnx) and scikit-learn; the example
itself does not.

    python examples/new_class/build.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from build_demo import PARTS, SOURCE_FRAMES, load_frames

from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks import digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KNOWN, ROOM, BATCH = 7, 12, 16


def moved(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each frame [1, 8, 8] moved by up to a pixel: what is learnt so serves new digits, too."""
    padded = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = rng.integers(0, 3, (len(frames), 2))
    return np.stack([p[:, i : i + 8, j : j + 8] for p, (i, j) in zip(padded, places, strict=True)])


def train(frames: np.ndarray, labels: np.ndarray, epochs: int = 40) -> torch.nn.Module:
    """Ordinary training."""
    model, y = digits(KNOWN), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        x = torch.from_numpy(moved(frames, rng)).float() / 255
        for index in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(model.train()(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train, warm up, export, and write the frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of bundle and frames")
    out = parser.parse_args().out
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, labels = load_frames()
    source = np.flatnonzero(labels[:SOURCE_FRAMES] < KNOWN)
    model = train(frames[source], labels[source])

    adaptive = attach(model, PARTS, torch.zeros(2, 1, 8, 8), statistics="remembered")
    warm_up(adaptive, frames[source], labels[source], Recipe(epochs=20, batch_size=20))
    adaptive.add_norm_affine()
    choices = Choices(BATCH, labels=NAMES[:KNOWN], max_classes=ROOM)
    origin = {"data": "scikit-learn digits, CC BY 4.0", "model": "edgemem.models.networks:digits"}
    print(export_bundle(adaptive, out / "digits.edgemem", choices, source=origin))

    others = {"x": frames[SOURCE_FRAMES:], "y": labels[SOURCE_FRAMES:].astype(np.uint8)}
    np.savez_compressed(out / "digits.npz", **others)


if __name__ == "__main__":
    main()
