"""Words spoken by generated voices in generated rooms: input when there is no microphone.

A word is a row of sounds; each has the three formants of a vowel (means of Peterson and Barney,
1952) or a band of noise, and formants glide from one to the next. A voice has a pitch, a length of
the vocal tract (which scales formants), a tempo and breath; a room has an echo and a noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from features import LENGTH, RATE
from numpy.typing import NDArray

WORDS = ("on", "off", "up", "down", "left", "right")
VOWELS = {
    "i": (390, 1990, 2550), "e": (530, 1840, 2480), "a": (730, 1090, 2440), "u": (440, 1020, 2240),
    "o": (570, 840, 2410), "v": (640, 1190, 2390), "r": (490, 1350, 1690), "n": (300, 1400, 2300),
    "l": (360, 1000, 2500),
}  # fmt: skip
NOISES = {"f": (2600, 0.12), "t": (3300, 0.3), "p": (900, 0.25), "d": (2400, 0.2)}  # Hz, level
SPOKEN = {
    "on": "aan", "off": "ooff", "up": "vv_p", "down": "dauun", "left": "leeft", "right": "rai_t",
}  # fmt: skip
SOUND = 0.11  # seconds of one sound; "_" is a short silence
GRID, SPAN = 64, 256  # samples between two spectra, and of one


@dataclass(frozen=True)
class Voice:
    """pitch: Hz. tract: factor on formants. tempo: factor on speed. breath: 0 to 1."""

    pitch: float
    tract: float
    tempo: float = 1.0
    breath: float = 0.1


@dataclass(frozen=True)
class Room:
    """echo: seconds until an echo has fallen by 60 dB.

    far: its level at the start. noise: level beside a voice of 1. colour: "white" or "low" (a car,
    a fan). low, high: Hz that the microphone lets through. walls: draws the echo, which stays as it
    is while one stays in the room.
    """

    echo: float = 0.08
    far: float = 0.15
    noise: float = 0.01
    colour: str = "white"
    low: float = 60.0
    high: float = 4000.0
    walls: int = 0


STUDY = Room()
# Who is met on the device. The first is like those it was trained on, and the others are not.
SPEAKERS = {
    "man, study": (Voice(118, 1.0), STUDY),
    "woman, bathroom": (Voice(205, 1.17, 1.05, 0.15), Room(0.6, 0.3, 0.02)),
    "child, kitchen": (Voice(285, 1.3, 0.92, 0.2), Room(0.3, 0.15, 0.12)),
    "man, telephone": (Voice(104, 0.96, 1.1), Room(noise=0.08, low=400, high=2200)),
    "man, hall": (Voice(125, 0.98, 0.9), Room(1.2, 0.3, 0.05)),
    "woman, car": (Voice(190, 1.14, 1.1, 0.1), Room(0.1, 0.1, 0.5, "low")),
}


def source_voice(rng: np.random.Generator) -> Voice:
    """One of the voices that the model is trained on: men who speak clearly."""
    return Voice(
        rng.uniform(90, 150), rng.uniform(0.92, 1.06), rng.uniform(0.85, 1.15), rng.uniform(0, 0.2)
    )


def source_room(rng: np.random.Generator) -> Room:
    """One of the living rooms that the training words were spoken in."""
    walls = int(rng.integers(1 << 30))
    return Room(rng.uniform(0.03, 0.3), 0.15, rng.uniform(0.003, 0.06), walls=walls)


def speak(word: str, voice: Voice, room: Room, rng: np.random.Generator) -> NDArray[np.float64]:
    """One utterance, [6400] samples at 8 kHz in [-1, 1]; no two are alike."""
    sounds = SPOKEN[word]
    duration = SOUND / voice.tempo * rng.uniform(0.85, 1.15)
    samples = min(int(len(sounds) * duration * RATE), LENGTH - SPAN)
    frames = samples // GRID
    place = np.linspace(0, len(sounds) - 1e-3, frames)
    formants, voiced, hissing = _tracks(sounds, place, rng)
    pitch = voice.pitch * rng.uniform(0.93, 1.07) * np.linspace(1.1, 0.88, samples)
    pulses = np.diff(np.floor(np.cumsum(pitch / RATE)), prepend=0) * np.sqrt(RATE / pitch)
    breath = voice.breath * rng.normal(size=samples)
    spectra = _resonances(formants * voice.tract) * voiced[:, None]
    signal = _filtered(pulses + breath, spectra) + _filtered(rng.normal(size=samples), hissing)
    start = rng.integers(0, LENGTH - len(signal) + 1)
    said = np.zeros(LENGTH)
    said[start : start + len(signal)] = signal / (np.abs(signal).max() + 1e-9)
    return _heard(said, room, rng)


def _tracks(
    sounds: str, place: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Formants [n, 3], level of the voice [n] and spectra of the noise [n, 129] at each place."""
    centres = np.arange(len(sounds)) + 0.5
    vowels = [k for k, sound in enumerate(sounds) if sound in VOWELS]
    targets = np.array([VOWELS[sounds[k]] for k in vowels]) * rng.normal(1, 0.04, (len(vowels), 3))
    formants = np.stack([np.interp(place, centres[vowels], targets[:, f]) for f in range(3)], 1)
    levels = [float(sound in VOWELS) * (0.5 if sound in "nl" else 1.0) for sound in sounds]
    hertz = np.linspace(0, RATE / 2, SPAN // 2 + 1)
    hissing = np.zeros((len(place), len(hertz)))
    for centre, sound in zip(centres, sounds, strict=True):
        if sound in NOISES:
            middle, level = NOISES[sound]
            near = np.exp(-(((place - centre) / 0.35) ** 2))[:, None]
            hissing += level * near * np.exp(-(((hertz - middle) / 700) ** 2))
    return formants, np.interp(place, centres, levels), hissing


def _resonances(formants: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spectra [n, 129] of a vocal tract with these formants [n, 3], falling with frequency."""
    hertz = np.linspace(0, RATE / 2, SPAN // 2 + 1)
    widths = np.array([80.0, 110.0, 160.0])
    peaks = 1 / (1 + ((hertz - formants[:, :, None]) / widths[:, None]) ** 2)
    return (peaks * np.array([1.0, 0.6, 0.35])[:, None]).sum(1) + 0.01


def _filtered(signal: NDArray[np.float64], spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """A signal through a filter that changes every 64 samples: windows are weighed and added."""
    padded = np.pad(signal, (0, SPAN))
    windows = np.lib.stride_tricks.sliding_window_view(padded, SPAN)[::GRID][: len(spectra)]
    parts = np.fft.irfft(np.fft.rfft(windows * np.hanning(SPAN)) * spectra, SPAN)
    result = np.zeros((len(parts) + SPAN // GRID, GRID))
    for k in range(SPAN // GRID):
        result[k : k + len(parts)] += parts[:, k * GRID : (k + 1) * GRID]
    return result.reshape(-1)[: len(signal)]


def _heard(said: NDArray[np.float64], room: Room, rng: np.random.Generator) -> NDArray[np.float64]:
    """What a microphone in the room records of what is said."""
    path, colour = _acoustics(room)
    size = 2 * LENGTH
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=size)) * colour, size)[:LENGTH]
    noise *= room.noise * np.sqrt(np.mean(said**2)) / noise.std()
    signal = np.fft.irfft(np.fft.rfft(said, size) * path, size)[:LENGTH] + noise
    return signal / np.abs(signal).max()


@lru_cache
def _acoustics(room: Room) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Spectra [6401] of the way from mouth to microphone, and of the noise."""
    hertz = np.fft.rfftfreq(2 * LENGTH, 1 / RATE)
    passes = 1 / (1 + (room.low / np.maximum(hertz, 1)) ** 4) / (1 + (hertz / room.high) ** 8)
    decay = 10 ** (-3 * np.arange(LENGTH) / RATE / room.echo)
    echo = room.far * np.random.default_rng(room.walls).normal(size=LENGTH) * decay
    echo[0] = 1.0
    colour = 1 / np.maximum(hertz / 150, 1) if room.colour == "low" else np.ones(len(hertz))
    return passes * np.fft.rfft(echo, 2 * LENGTH), passes * colour
