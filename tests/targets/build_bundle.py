"""A bundle with graphs for other engines: digits of the packaged demo, a short training.

python tests/targets/build_bundle.py --target litert --out build/targets/litert.edgemem
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edgemem.demo import STREAM
from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks import digits

PARTS = ("layer1[0:1]", "layer1[1:2]", "layer2[0:1]", "layer2[1:2]")


def train(model, frames, labels, epochs=10):
    """Ordinary training."""
    x, y = torch.from_numpy(frames).float() / 255, torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(48):
            loss = F.cross_entropy(model.train()(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main():
    """Train on the frames of the demo's clear context, warm up, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    with np.load(STREAM) as stream:
        clear = stream["context"] == "clear"
        frames, labels = stream["x"][clear], stream["y"][clear]
    model = train(digits(), frames, labels)
    adaptive = attach(model, PARTS, torch.zeros(2, 1, 8, 8), statistics="remembered")
    warm_up(adaptive, frames, labels, Recipe(epochs=2, batch_size=24))
    adaptive.add_norm_affine()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    choices = Choices(
        16, targets=tuple(options.target.split(",")), int8=frames[:512] if options.int8 else None
    )
    export_bundle(adaptive, options.out, choices, report=lambda stage: print(stage, flush=True))
    manifest = json.loads((options.out / "manifest.json").read_text())
    print(json.dumps(manifest["exported_from"]["targets"], indent=1))


if __name__ == "__main__":
    main()
