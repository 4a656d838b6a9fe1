"""The frames of a call, from the rule that a trace names. docs/traces.md says the same in words."""

from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]  # of the project
GOLDEN, FIRST, SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def frames(rule, folder):
    """Frames [n, ...] of a rule; one bare frame where it says so. folder: of the trace."""
    held = _array(_path(rule["file"], folder), rule["array"])
    first = rule.get("first", 0)
    found = held[first : first + rule["count"]]
    if len(found) != rule["count"]:
        raise ValueError(f"{rule} asks for frames that are not there")
    for change, *values in rule.get("changes", ()):
        found = CHANGES[change](found, *values)
    if found.dtype == np.float16:
        found = found.astype(np.float32)
    return found[0] if rule.get("bare") else found


def uniform(seed, count):
    """float32 [count] in [0, 1): the upper 24 bits of splitmix64 from a seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def _path(name, folder):
    return folder / name if name == "arrays.npz" else ROOT / name


@cache
def _array(path, name):
    with np.load(path) as file:
        return file[name]


def _real(x):
    """float32: uint8 divided by 255, anything else as it is."""
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    return x.astype(np.float32)


def _scale(x, factor, offset):
    return _real(x) * np.float32(factor) + np.float32(offset)


def _noise(x, seed, size):
    drawn = uniform(seed, x.size).reshape(x.shape)
    return _real(x) + np.float32(size) * (np.float32(2) * drawn - np.float32(1))


def _replace(x, place, value):
    x = _real(x).copy()
    x.reshape(-1)[place] = np.float32(value)
    return x


CHANGES = {
    "scale": _scale,
    "noise": _noise,
    "replace": _replace,
    "take": lambda x, places: x[np.array(places)],
    "same": lambda x: np.repeat(x[:1], len(x), axis=0),
    "roll": lambda x, axis, places: np.roll(x, places, axis),
}
