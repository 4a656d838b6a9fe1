"""Words as log-mel features, from wav files, a microphone or plain arrays. Needs numpy only."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemem import InputError

RATE = 8000  # samples per second
LENGTH = 6400  # samples of one word, 0.8 s
WINDOW, HOP = 256, 100
BANDS, STEPS = 32, 62
FLOOR = 1e-4  # of the power, where a word has a mean square of 1
LEAD = 800  # samples kept before a word
LOUD = 3.0  # times the level of the pauses


def features(signal: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-mel features [32, 62] of the first 0.8 s of a signal in [-1, 1] at 8 kHz.

    The level of the signal is taken out, for it depends on the distance to the microphone.
    """
    padded = np.pad(signal[:LENGTH], (0, max(0, LENGTH - len(signal))))
    padded = padded / (np.sqrt(np.mean(padded**2)) + 1e-4)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), axis=1)) ** 2 / WINDOW
    return np.log(_FILTERS @ power.T + FLOOR).astype(np.float32)


def _mel_filters() -> NDArray[np.float64]:
    """Triangular filters [bands, 129], evenly spaced in mel from 0 to 4 kHz (O'Shaughnessy)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


_FILTERS = _mel_filters()


def read_wav(path: Path) -> NDArray[np.float64]:
    """Samples of a recording in [-1, 1] at 8 kHz, channels averaged.

    Multiples of 8 kHz are averaged down; 16-bit PCM only.

    Raises:
        InputError: no such wav file, another sample format, or a rate that is no multiple of 8 kHz.
    """
    try:
        with wave.open(str(path), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            content = file.readframes(file.getnframes())
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist", "Check the path") from error
    except (wave.Error, EOFError, OSError) as error:
        raise InputError(str(path), f"is not a wav file ({error})", "Save 16-bit PCM") from error
    if width != 2:
        raise InputError(str(path), f"has {8 * width}-bit samples", "Save 16-bit PCM")
    if rate % RATE or not rate:
        remedy = f"Convert it to 16000, for example: ffmpeg -i {path.name} -ar 16000 converted.wav"
        raise InputError(str(path), f"has {rate} samples per second, no multiple of {RATE}", remedy)
    whole = len(content) // (2 * channels) * 2 * channels
    samples = np.frombuffer(content[:whole], "<i2").reshape(-1, channels).mean(1) / 32768
    step = rate // RATE
    return samples[: len(samples) // step * step].reshape(-1, step).mean(1)


def split_words(signal: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    """The words of a recording: 0.8 s around every stretch that is louder than the pauses."""
    block = RATE // 50
    blocks = signal[: len(signal) // block * block].reshape(-1, block)
    if not len(blocks):
        return
    level, end = np.sqrt((blocks**2).mean(1)), 0
    for start in np.flatnonzero(level > LOUD * np.quantile(level, 0.2) + 1e-3) * block:
        if start >= end:
            first = max(start - LEAD, end)
            end = first + LENGTH
            yield signal[first:end]


def wav_words(path: Path) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """Speaker, word and features of every word in a wav file or a folder of them.

    In a folder each subfolder is a speaker. A file of at most 1.6 s holds one word, which is the
    start of its name up to the first "_" or "-"; of longer ones the words are unknown ("").

    Raises:
        InputError: nothing there, or a file that is no wav file of the right kind.
    """
    if not path.exists():
        raise InputError(str(path), "does not exist", "Pass a wav file or a folder of them")
    files = sorted(path.rglob("*.wav")) if path.is_dir() else [path]
    if not files:
        raise InputError(str(path), "holds no .wav file", "Record some, 16-bit PCM")
    for file in files:
        signal = read_wav(file)
        speaker = file.parent.name if path.is_dir() and file.parent != path else "speaker"
        if len(signal) <= 2 * LENGTH:
            yield speaker, file.stem.replace("-", "_").split("_")[0], features(signal)
        else:
            for word in split_words(signal):
                yield speaker, "", features(word)


def microphone_words() -> Iterator[NDArray[np.float32]]:
    """Features of every word that is spoken, until interrupted.

    Raises:
        InputError: sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is missing
        raise InputError("microphone", str(error), "Run: pip install sounddevice") from error
    heard, chunk = np.zeros(0), RATE // 10
    try:
        with sounddevice.InputStream(samplerate=RATE, channels=1, dtype="float32") as stream:
            while True:
                heard = np.concatenate([heard[-8 * RATE :], stream.read(chunk)[0][:, 0]])
                words = list(split_words(heard))
                if len(heard) > RATE and words and len(words[0]) == LENGTH:
                    yield features(words[0])
                    heard = np.zeros(0)
    except sounddevice.PortAudioError as error:
        raise InputError("microphone", str(error), "Connect one that takes 8 kHz") from error
