"""A small simulator of an accelerometer that somebody carries: input when there is no sensor.

Accelerations are in g, in the axes of the phone. A body moves with a rhythm of its activity; how
the phone is worn turns the axes, scales and damps what arrives, and adds noise and a bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE = 50  # samples per second
LENGTH = 128  # samples of a window, 2.56 s
ACTIVITIES = ("still", "walk", "run", "stairs", "cycle")
# Of each activity: steps (or turns of the pedals) per second; size of the movement up and down,
# ahead, and to the side, in g; share of the second and third harmonic; jolts, in g.
RHYTHMS = {
    "still": (0.25, (0.004, 0.004, 0.006), (0.3, 0.1), 0.006),
    "walk": (1.85, (0.24, 0.13, 0.08), (0.45, 0.2), 0.03),
    "run": (2.7, (0.85, 0.3, 0.2), (0.35, 0.2), 0.08),
    "stairs": (1.55, (0.2, 0.17, 0.11), (0.7, 0.35), 0.05),
    "cycle": (1.25, (0.07, 0.09, 0.12), (0.25, 0.1), 0.07),
}


@dataclass(frozen=True)
class Worn:
    """How a phone is worn. turn: degrees about the axes to the side, ahead and up. gain: of all
    movement. damping: 0 to 1, of what is fast. noise, bias: in g. swing: of an arm, in g, at half
    the rhythm of the steps."""

    turn: tuple[float, float, float] = (0, 0, 0)
    gain: float = 1.0
    damping: float = 0.0
    noise: float = 0.01
    bias: tuple[float, float, float] = (0, 0, 0)
    swing: float = 0.0


# How the phone is worn on the device. The first is as in training, and the others are not.
PLACES = {
    "front pocket": Worn(),
    "back pocket": Worn(turn=(25, -35, 10), gain=1.15),
    "wrist": Worn(turn=(-40, 15, 30), gain=1.2, noise=0.02, swing=0.3),
    "backpack": Worn(turn=(15, 20, 0), gain=0.7, damping=0.4),
    "handbag": Worn(turn=(25, 15, -20), gain=0.75, damping=0.3, noise=0.05),
    "other phone": Worn(turn=(5, 5, 0), gain=1.3, noise=0.03, bias=(0.12, -0.1, 0.15)),
}


def source_place(rng: np.random.Generator) -> Worn:
    """One of the front pockets that the model is trained on."""
    side, ahead, up = rng.normal(0, 8, 3)
    return Worn((side, ahead, up), rng.uniform(0.9, 1.1), 0.0, rng.uniform(0.005, 0.015))


def window(activity: str, worn: Worn, rng: np.random.Generator) -> NDArray[np.float32]:
    """One window [3, 128] float32 in g (to the side, ahead, up), of somebody at a random moment."""
    rhythm, size, harmonics, jolts = RHYTHMS[activity]
    rhythm, vigour = rhythm * rng.normal(1, 0.07), np.exp(rng.normal(0, 0.2))
    time = np.arange(LENGTH) / RATE
    phase = 2 * np.pi * (rhythm * time + rng.random() + 0.03 * np.cumsum(rng.normal(size=LENGTH)))
    up, ahead, side = vigour * np.array(size) * np.exp(rng.normal(0, 0.15, 3))
    moved = np.stack([
        side * np.sin(phase / 2 + 0.4),  # once with every second step
        ahead * _wave(phase + 1.1, harmonics),
        up * _wave(phase, harmonics),
    ])  # fmt: skip
    if activity in ("walk", "run", "stairs"):
        moved[1] += worn.swing * vigour * np.sin(phase / 2)
    moved += vigour * jolts * rng.normal(size=moved.shape)
    if worn.damping:
        moved = _damped(moved, worn.damping)
    still = np.array([0.0, 0.0, 1.0])[:, None]  # what keeps us up against gravity
    seen = _turned(worn.turn) @ (still + worn.gain * moved)
    noise = worn.noise * rng.normal(size=moved.shape)
    return (seen + np.array(worn.bias)[:, None] + noise).astype(np.float32)


def stream(
    visits: list[str], windows: int, seed: int, bout: float
) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """Place, activity and window, visit after visit; an activity lasts `bout` on average."""
    rng = np.random.default_rng(seed)
    for place in visits:
        activity = str(rng.choice(ACTIVITIES))
        for _ in range(windows):
            if rng.random() < 1 / bout:
                activity = str(rng.choice(ACTIVITIES))
            yield place, activity, window(activity, PLACES[place], rng)


def _wave(phase: NDArray[np.float64], harmonics: tuple[float, float]) -> NDArray[np.float64]:
    second, third = harmonics
    return np.sin(phase) + second * np.sin(2 * phase + 0.9) + third * np.sin(3 * phase + 2.0)


def _damped(moved: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Each sample as a mean with those before it, whose weight falls by `damping` a sample."""
    weights = damping ** np.arange(24)
    weights /= weights.sum()
    padded = np.pad(moved, ((0, 0), (len(weights) - 1, 0)), mode="wrap")
    return np.stack([np.convolve(axis, weights, "valid") for axis in padded])


def _turned(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation matrix: about the axis to the side, then the one ahead, then the one up."""
    a, b, c = np.radians(degrees)
    side = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    ahead = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    up = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(up) @ np.array(ahead) @ np.array(side)
