"""The keyword example, without a microphone."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from edgemem import InputError

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "keyword_spotting"
SCRIPT = "keyword_spotting/keywords.py"
# Stands for sounddevice: what was said once, and then somebody presses Ctrl-C.
FAKE_SOUNDDEVICE = """
import numpy as np
class PortAudioError(Exception):
    pass
class InputStream:
    def __init__(self, **options):
        self.sound = np.load("said.npy")
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
    def read(self, count):
        if len(self.sound) < count:
            raise KeyboardInterrupt
        block, self.sound = self.sound[:count], self.sound[count:]
        return block[:, None].astype(np.float32), False
"""


def save(path, signal, rate=16000, channels=1, width=2):
    """A wav file; signal [n] in [-1, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.repeat(np.round(32767 * signal).astype("<i2"), channels)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


@pytest.fixture
def voices(module):
    """The module that speaks."""
    return module("keyword_spotting", "voices")


@pytest.fixture
def recordings(voices, tmp_path):
    """A folder of two speakers, with five words each at 16 kHz, and their names."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        for word in voices.WORDS[:5]:
            said = voices.speak(word, voices.Voice(110, 1.0), voices.Room(), rng)
            save(tmp_path / "heard" / speaker / f"{word}_01.wav", 0.5 * np.repeat(said, 2))
    return tmp_path / "heard"


def test_unknown_voices_are_understood_better(example, tmp_path):
    found = example(SCRIPT, "--words", "64", "--visits", "1", "--json")
    score = json.loads(found.stdout)
    assert score["labelled"] == 384 and set(score["contexts"]) >= {"man, study", "woman, car"}
    assert score["contexts"]["man, study"]["frozen_error"] <= 0.02
    assert score["frozen_error"] >= 0.1
    assert score["adapted_error"] <= 0.7 * score["frozen_error"], score
    assert (tmp_path / score["picture"]).stat().st_size > 10_000


def test_recordings_with_the_word_in_their_name(example, recordings):
    score = json.loads(example(SCRIPT, "--input", str(recordings), "--json").stdout)
    assert score["labelled"] == 10 and set(score["contexts"]) == {"ann", "bob"}
    assert score["frozen_error"] <= 0.2


def test_a_long_recording_is_split_into_its_words(example, voices, tmp_path):
    rng, quiet = np.random.default_rng(0), voices.Room(noise=0.001)
    pause = 0.001 * rng.normal(size=8000)
    parts = [pause]
    for word in ("left", "down", "right"):
        parts += [0.5 * voices.speak(word, voices.Voice(110, 1.0), quiet, rng), pause]
    save(tmp_path / "long.wav", np.concatenate(parts), rate=8000, channels=2)
    found = example(SCRIPT, "--input", str(tmp_path / "long.wav"), "--state", "voices.db")
    assert found.returncode == 0, found.stderr
    heard = [line.split()[0] for line in found.stdout.splitlines()[:3]]
    assert heard == ["left", "down", "right"] and "3 words" in found.stdout
    assert (tmp_path / "voices.db").exists()


def test_a_microphone_by_sounddevice(example, voices, tmp_path):
    said = voices.speak("left", voices.Voice(110, 1.0), voices.Room(), np.random.default_rng(0))
    np.save(tmp_path / "said.npy", np.concatenate([np.zeros(9000), said, np.zeros(9000)]))
    (tmp_path / "sounddevice.py").write_text(FAKE_SOUNDDEVICE)
    found = example(SCRIPT, "--input", "microphone", modules=tmp_path)
    assert found.returncode == 0 and found.stdout.startswith("left"), found
    assert "1 words" in found.stdout and "Traceback" not in found.stderr


def test_without_a_microphone_it_says_what_to_install(refused):
    assert "pip install sounddevice" in refused(SCRIPT, "--input", "microphone")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "nowhere: does not exist"),
        ("empty", "holds no .wav file"),
        ("rate.wav", "has 44100 samples per second, no multiple of 8000"),
        ("wide.wav", "has 24-bit samples"),
        ("text.wav", "is not a wav file"),
    ],
)
def test_what_it_cannot_use_is_told(module, tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("nothing")
    save(tmp_path / "rate.wav", np.zeros(44100), rate=44100)
    save(tmp_path / "wide.wav", np.zeros(300), width=3)
    features = module("keyword_spotting", "features")
    with pytest.raises(InputError, match=reason):
        list(features.wav_words(tmp_path / name))


def test_a_refusal_is_one_line(refused, tmp_path):
    save(tmp_path / "rate.wav", np.zeros(44100), rate=44100)
    assert "has 44100 samples per second" in refused(SCRIPT, "--input", "rate.wav")


def test_the_bundle_is_small():
    files = [file for file in (FOLDER / "keywords.edgemem").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 400_000
