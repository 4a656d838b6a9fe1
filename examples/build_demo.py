"""Build what `edgemem demo` shows: a digit classifier that adapts, and a drifting stream.

Data: the 1,797 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten Digits,
CC BY 4.0). 1,000 of them train the model; the stream is made of the other 797.

    python examples/build_demo.py --out edgemem/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from first_bundle.make_data import load_frames, seen_in
from plain_training import train

from edgemem.export import Choices, export_bundle
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.networks import digits

PARTS = ("layer1[0:1]", "layer1[1:2]", "layer2[0:1]", "layer2[1:2]")
SOURCE_FRAMES = 1000
VISIT_FRAMES = 240
VISITS = (
    "clear", "fog", "noise", "dusk", "blur", "fog", "clear", "dusk", "noise", "blur",
    "dusk", "fog", "blur", "clear", "noise", "fog", "dusk", "clear", "blur", "noise",
)  # fmt: skip


def drift(x, context, rng):
    """One context applied to frames in [0, 1]."""
    if context == "noise":
        return x + rng.normal(0, 0.35, x.shape)
    if context == "blur":
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        shifted = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        return np.mean(shifted, 0) * 0.9
    return seen_in(context, x, rng)


def make_stream(frames, labels, rng):
    """The visits one after another; contexts come back with other digits and fresh noise.

    As in life, every context has classes of its own that are frequent (Dirichlet 0.3).
    """
    parts, chosen, contexts = [], [], []
    priors = {context: rng.dirichlet([0.3] * 10) for context in dict.fromkeys(VISITS)}
    of_class = [np.flatnonzero(labels == c) for c in range(10)]
    for context in VISITS:
        classes = rng.choice(10, VISIT_FRAMES, p=priors[context])
        index = np.array([rng.choice(of_class[c]) for c in classes])
        seen = np.clip(drift(frames[index] / 255.0, context, rng), 0, 1)
        parts.append(np.round(seen * 255).astype(np.uint8))
        chosen.append(labels[index])
        contexts += [context] * VISIT_FRAMES
    return {"x": np.concatenate(parts), "y": np.concatenate(chosen), "context": contexts}


def main():
    """Train, warm up, export, and write the stream."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, labels = load_frames()
    source, held = slice(0, SOURCE_FRAMES), slice(SOURCE_FRAMES, None)
    x = torch.from_numpy(frames[source]).float() / 255
    model = train(digits(), x, labels[source], epochs=40, batch=50)

    adaptive = attach(model, PARTS, torch.zeros(2, 1, 8, 8), statistics="remembered")
    warm_up(adaptive, frames[source], labels[source], Recipe(epochs=20, batch_size=20))
    names = tuple(str(digit) for digit in range(10))
    # The cheaper step: a small board shall keep up with the picture.
    choices = Choices(16, "meta", "all", "ecotta", learning_rate=1e-3, labels=names)
    origin = {"data": "scikit-learn digits, CC BY 4.0", "model": "edgemem.models.networks:digits"}
    print(export_bundle(adaptive, out / "digits.edgemem", choices, source=origin))

    stream = make_stream(frames[held], labels[held], np.random.default_rng(1))
    np.savez_compressed(out / "digits-stream.npz", **stream)


if __name__ == "__main__":
    main()
