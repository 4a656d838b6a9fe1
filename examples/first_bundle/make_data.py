"""A checkpoint and data to try EdgeMem with: a small network for scikit-learn's handwritten digits.

    python examples/first_bundle/make_data.py --out build/first

writes `digits.pt` (weights, as torch.save makes them), `train.npz` (x uint8 [1000, 1, 8, 8], y) and
`stream.npz` (x, y and context): 1,600 digits that the network was not trained on, in daylight, at
dusk and in fog, four visits each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from edgemem.models.networks import digits

TRAINED_ON = 1000
VISIT = 160  # frames
VISITS = ("daylight", "dusk", "fog", "dusk", "daylight", "fog", "dusk", "fog", "daylight", "dusk")


def load_frames():
    """Frames [1797, 1, 8, 8] uint8 and labels, in a fixed shuffle."""
    data = load_digits()
    frames = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(frames))
    return frames[order], data.target[order].astype(np.int64)


def train(frames, labels, epochs=40):
    """A network that knows digits in daylight."""
    model = digits()
    x, y = torch.from_numpy(frames).float() / 255, torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(model.train()(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def seen_in(context, x, rng):
    """Frames in [0, 1], as a camera would see them there."""
    if context == "dusk":
        return 0.22 * x + rng.normal(0, 0.03, x.shape)
    if context == "fog":
        return 0.55 + 0.35 * x + rng.normal(0, 0.02, x.shape)
    return x


def make_stream(frames, labels, rng):
    """The visits, one after another."""
    chosen = rng.integers(0, len(frames), (len(VISITS), VISIT))
    seen = [seen_in(c, frames[i] / 255, rng) for c, i in zip(VISITS, chosen, strict=True)]
    x = np.round(np.clip(np.concatenate(seen), 0, 1) * 255).astype(np.uint8)
    return {"x": x, "y": labels[chosen.ravel()], "context": np.repeat(VISITS, VISIT)}


def main():
    """Train the network, and write it and its data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, labels = load_frames()
    known, others = slice(0, TRAINED_ON), slice(TRAINED_ON, None)
    torch.save(train(frames[known], labels[known]).state_dict(), out / "digits.pt")
    np.savez_compressed(out / "train.npz", x=frames[known], y=labels[known])
    stream = make_stream(frames[others], labels[others], np.random.default_rng(1))
    np.savez_compressed(out / "stream.npz", **stream)


if __name__ == "__main__":
    main()
