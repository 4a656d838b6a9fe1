"""Loads spoken digits as log-mel features, and the small network that is trained on them.

Free spoken digit dataset: 3,000 recordings at 8 kHz by six speakers. Features: windows of 256
samples every 80, 40 mel bands (O'Shaughnessy's formula), natural logarithm; 64 windows from the
start of a recording, shorter ones are silent at the end.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from edgemem.models.networks import conv1d

RATE, WINDOW, HOP = 8000, 256, 80
BANDS, STEPS = 40, 64
FLOOR = 1e-4  # of the power; recordings reach 1
TRAINING = {"epochs": 20, "batch": 64, "learning_rate": 3e-3, "moves": 4, "seed": 0}


def load_speech(
    folder: Path,
) -> tuple[
    NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[str, ...]
]:
    """Features [n, 40, 64], digits, speakers and numbers of the take [n] in a fixed random order,
    and the speakers' names."""
    with np.load(folder / "fsdd" / "fsdd.npz") as held:
        audio, ends = held["audio"], held["offsets"]
        digits, speakers = held["digit"].astype(np.int64), held["speaker"].astype(np.int64)
        takes = held["index"].astype(np.int64)
        names = tuple(str(name) for name in held["speakers"])
    frames = np.stack([features(audio[start:stop] / 32768) for start, stop in pairwise(ends)])
    order = np.random.default_rng(0).permutation(len(frames))
    return frames[order], digits[order], speakers[order], takes[order], names


def features(signal: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-mel features [40, 64] of a recording in [-1, 1]."""
    needed = WINDOW + HOP * (STEPS - 1)
    padded = np.pad(signal[:needed], (0, max(0, needed - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), axis=1)) ** 2 / WINDOW
    return np.log(mel_bands() @ power.T + FLOOR).astype(np.float32)


def mel_bands() -> NDArray[np.float64]:
    """Triangular filters [40, 129], evenly spaced in mel from 0 to 4 kHz."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def other_voices(frames: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The recordings [n, 40, 64] as by others: each stretched along the bands by up to 15 %, as by
    another length of the vocal tract (Jaitly & Hinton, ICML workshop 2013), and along time by up to
    20 %."""
    rng = np.random.default_rng(seed)
    result = np.empty_like(frames)
    for k, frame in enumerate(frames):
        wider = _stretched(frame, 0, 1 + rng.uniform(-0.15, 0.15))
        result[k] = _stretched(wider, 1, 1 + rng.uniform(-0.2, 0.2))
    return result


def _stretched(frame: NDArray[np.float32], axis: int, factor: float) -> NDArray[np.float32]:
    length = frame.shape[axis]
    places = np.minimum(factor * np.arange(length), length - 1)
    low = places.astype(np.intp)
    share = np.expand_dims(places - low, 1 - axis).astype(np.float32)
    above = frame.take(np.minimum(low + 1, length - 1), axis)
    return (1 - share) * frame.take(low, axis) + share * above


def network(classes: int = 10) -> nn.Module:
    """A 1-D network over time, untrained."""
    return conv1d(BANDS, classes, STEPS)


def trained(frames: NDArray[np.float32], digits: NDArray[np.int64], classes: int = 10) -> nn.Module:
    """The network trained on these recordings, each moved in time by up to four windows."""
    torch.manual_seed(TRAINING["seed"])
    model, batch, moves = network(classes), int(TRAINING["batch"]), int(TRAINING["moves"])
    optimizer = torch.optim.Adam(model.parameters(), TRAINING["learning_rate"])
    steps = int(TRAINING["epochs"]) * (len(frames) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(int(TRAINING["seed"]))
    for _ in range(steps):
        chosen = rng.choice(len(frames), batch, replace=False)
        moved = np.roll(frames[chosen], rng.integers(-moves, moves + 1), axis=2)
        loss = functional.cross_entropy(
            model(torch.from_numpy(moved)), torch.from_numpy(digits[chosen])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
