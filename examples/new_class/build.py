"""Build what this example runs: a network that knows the digits 0 to 6, and frames of all ten.

Data: the 1,797 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten Digits,
CC BY 4.0). Those of 0 to 6 among the first 1,000 train the network; the frames are the other 797, as a
worse camera sees them. Needs the extra `export` (torch, onnx) and scikit-learn; the example itself
does not.

    python examples/new_class/build.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from build_demo import PARTS, SOURCE_FRAMES, drift, load_frames, train

from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks import digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KNOWN, ROOM, BATCH = 7, 12, 16


def main() -> None:
    """Train, warm up, export, and write the frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of bundle and frames")
    out = parser.parse_args().out
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, labels = load_frames()
    source = np.flatnonzero(labels[:SOURCE_FRAMES] < KNOWN)
    model = train(digits(KNOWN), frames[source], labels[source])

    adaptive = attach(model, PARTS, torch.zeros(2, 1, 8, 8), statistics="remembered")
    warm_up(adaptive, frames[source], labels[source], Recipe(epochs=20, batch_size=20))
    adaptive.add_norm_affine()
    choices = Choices(BATCH, labels=NAMES[:KNOWN], max_classes=ROOM)
    origin = {"data": "scikit-learn digits, CC BY 4.0", "model": "edgemem.models.networks:digits"}
    print(export_bundle(adaptive, out / "digits.edgemem", choices, source=origin))

    seen = drift(frames[SOURCE_FRAMES:] / 255.0, "fog", np.random.default_rng(0))
    x = np.round(np.clip(seen, 0, 1) * 255).astype(np.uint8)
    np.savez_compressed(out / "digits.npz", x=x, y=labels[SOURCE_FRAMES:].astype(np.uint8))


if __name__ == "__main__":
    main()
