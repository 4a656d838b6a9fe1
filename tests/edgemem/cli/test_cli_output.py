"""Output that cannot be written: one line, an exit code of its own, and no work lost."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgemem
from edgemem.demo import BUNDLE, STREAM

COMMAND = Path(sys.executable).with_name("edgemem")
LINUX = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "short.npz"
    with np.load(STREAM) as data:
        np.savez(path, **{name: data[name][:48] for name in data.files})
    return path


def shell(words, redirect, **more):
    line = " ".join(f"'{word}'" for word in (COMMAND, *words))
    return subprocess.run(f"{line} {redirect}", shell=True, capture_output=True, text=True, **more)


@LINUX
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", "<&- >&-"])
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_results_that_cannot_be_printed_are_told_in_one_line(redirect, json):
    finished = shell(["inspect", BUNDLE, *json], redirect)
    assert finished.returncode == 1 and finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("edgemem: standard output: cannot be written (")


@LINUX
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", ">&- 2>&-", "2>/dev/full", "2>&-"])
def test_what_was_learnt_is_kept_when_nobody_can_read_about_it(redirect, short, tmp_path):
    words = ["run", BUNDLE, "--input", short, "--state", tmp_path / "s.db", "--threads", 1]
    finished = shell(words, redirect)
    assert finished.returncode == (0 if redirect.startswith("2") else 1), finished.stderr
    assert "Traceback" not in finished.stderr
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        assert runtime.counters["frames"] == 48


@LINUX
@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["bank"], ["bank", "nothing"]])
def test_help_that_cannot_be_printed_is_no_traceback(words):
    finished = shell(words, ">/dev/full")
    assert finished.returncode in {1, 2} and "Traceback" not in finished.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe to cut")
@pytest.mark.parametrize("words", [["inspect", BUNDLE], ["inspect", BUNDLE, "--json"], ["--help"]])
def test_a_reader_that_is_gone_is_no_fault(words):
    reading, writing = os.pipe()
    os.close(reading)
    finished = subprocess.run(
        [COMMAND, *map(str, words)], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert finished.returncode == 1 and finished.stderr == ""


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_locale_without_letters_is_no_traceback(short, locale):
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    finished = subprocess.run(
        [COMMAND, "run", BUNDLE, "--input", short, "--threads", "1"],
        capture_output=True, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.isascii() and b"48" in finished.stdout
