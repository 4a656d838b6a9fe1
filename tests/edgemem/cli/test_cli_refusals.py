"""Bad input on the command line: exit code 2, one sentence, and nothing touched."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command

import edgemem
from edgemem.demo import BUNDLE, STREAM

NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which is read-only")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(tmp_path):
    """Function: run a command in tmp_path, check that it refuses, return what it says."""

    def run(*arguments):
        before = contents(tmp_path)
        finished = run_command(*arguments, cwd=tmp_path)
        assert finished.returncode == 2, finished
        assert "Traceback" not in finished.stderr and finished.stdout == ""
        assert contents(tmp_path) == before
        last = finished.stderr.strip().splitlines()[-1]
        assert last.startswith("edgemem: ") and last.endswith("."), finished.stderr
        return last

    return run


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_missing_bundle_is_refused(refused, command):
    assert "missing.edgemem: is not a folder" in refused(command, "missing.edgemem")


def test_a_missing_bundle_is_refused_by_run_without_a_state_file(refused):
    said = refused("run", "missing.edgemem", "--input", STREAM, "--state", "s.db")
    assert "missing.edgemem: is not a folder" in said


def test_the_installed_command_refuses_in_the_same_words(refused, tmp_path):
    command = Path(sys.executable).with_name("edgemem")
    words = ("run", BUNDLE, "--input", "missing.npz")
    finished = subprocess.run(
        [command, *map(str, words)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.splitlines() == [refused(*words)]


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_damaged_bundle_is_refused(refused, bundle, command):
    (bundle / "weights.bin").write_bytes(b"")
    assert "weights.bin: has 0 bytes" in refused(command, bundle)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (None, "s.npz: does not exist. Check the path."),
        ({"z": np.zeros(3)}, "s.npz: is not a readable stream"),
        ({"x": np.zeros((0, 1, 8, 8), np.uint8)}, "s.npz: holds no frames"),
        ({"x": np.zeros((20, 3, 8, 8), np.uint8)}, "this bundle takes [n, 1, 8, 8]"),
        ({"x": np.zeros((20, 1, 8, 8))}, "frames: have dtype float64"),
        ({"x": np.full((20, 1, 8, 8), np.nan, np.float32)}, "frame 0: holds NaN"),
        ({"x": np.zeros((20, 1, 8, 8), np.uint8), "y": np.zeros(3, int)}, "for 20 frames"),
        (
            {"x": np.zeros((3, 1, 8, 8), np.uint8), "y": [1, 2, 10]},
            "the bundle's classes are 0 to 9",
        ),
        ({"x": np.zeros((3, 1, 8, 8), np.uint8), "y": [-1, 0, 0]}, "runs from -1 to 0"),
    ],
)
def test_a_bad_stream_is_refused_and_makes_no_state_file(refused, tmp_path, arrays, reason):
    if arrays is not None:
        np.savez(tmp_path / "s.npz", **arrays)
    assert reason in refused("run", BUNDLE, "--input", "s.npz", "--state", "s.db")


def test_a_bad_stream_leaves_an_old_state_file_byte_for_byte(refused, tmp_path, digits_stream):
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        runtime.step(digits_stream[0][:40])
    np.savez(tmp_path / "s.npz", x=np.zeros((20, 3, 8, 8), np.uint8))
    refused("run", BUNDLE, "--input", "s.npz", "--state", "s.db")
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        assert runtime.counters["frames"] == 40


def test_the_state_of_another_bundle_is_refused(refused, tmp_path, bundle, seal, digits_stream):
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        runtime.step(digits_stream[0][:40])
    seal(bundle, lambda manifest: manifest.update(name="another"))
    said = refused("run", bundle, "--input", STREAM, "--state", "s.db")
    assert "s.db: belongs to another bundle. Open it with the bundle that wrote it" in said


def test_a_state_file_that_is_none_is_refused(refused, tmp_path):
    (tmp_path / "s.db").write_text("hello " * 1000)
    said = refused("run", BUNDLE, "--input", STREAM, "--state", "s.db")
    assert "s.db: is damaged or not a state file" in said


@NEEDS_PROC
def test_places_that_cannot_be_written_are_refused(refused):
    writable = "Choose a folder that exists, is writable and has space."
    assert writable in refused("demo", "--out", "/proc/out")
    assert writable in refused("run", BUNDLE, "--input", STREAM, "--plot", "/proc/out.png")
    said = refused("run", BUNDLE, "--input", STREAM, "--state", "/proc/s.db")
    assert "/proc/s.db: cannot be used" in said


def test_a_file_where_a_folder_should_be_is_refused(refused, tmp_path):
    (tmp_path / "results").write_text("mine")
    assert "results: cannot be written" in refused("demo")


def test_a_picture_is_refused_before_the_stream_is_run(refused, tmp_path):
    state = ("--state", "s.db")
    said = refused("run", BUNDLE, "--input", STREAM, *state, "--plot", "errors.xyz")
    assert "errors.xyz: is no kind of picture" in said and ".png" in said
    said = refused("run", BUNDLE, "--input", STREAM, *state, "--plot", "missing/errors.png")
    assert "missing/errors.png: cannot be written" in said
    np.savez(tmp_path / "s.npz", x=np.zeros((20, 1, 8, 8), np.uint8))
    said = refused("run", BUNDLE, "--input", "s.npz", *state, "--plot", "errors.png")
    assert "--plot: needs labels" in said


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--set", "alpha", "--set alpha: is not name=number"),
        ("--set", "alpha=x", "--set alpha=x: is not name=number"),
        ("--set", "alpha=nan", "'alpha': is nan. Pass a finite number"),
        ("--set", "alhpa=1", "'alhpa': is unknown to this bundle. It has alpha"),
        ("--chunk", "-1", "-1 frames per call: is not possible"),
        ("--threads", "-1", "threads=-1: is negative"),
        ("--threads", "100000", "threads=100000: is more than"),
        ("--threads", str(1 << 70), "is more than"),
        ("--set", "alpha=1e39", "'alpha': is 1e+39. Pass a finite number"),
        ("--memory-budget", "9" * 400, "is no size"),
        ("--adapt-when", "9" * 5000, "is unknown"),
        ("--adapt-when", "--5", "adapt_when='--5': is unknown"),
        ("--state", "x" * 250, "name too long"),
    ],
)
def test_a_bad_option_is_refused_and_makes_no_state_file(refused, option, value, reason):
    assert reason in refused("run", BUNDLE, "--input", STREAM, "--state", "s.db", option, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--adapt-when", "often"),
        ("--adapt-when", "0"),
        ("--adapt-when", "1.5"),
        ("--memory-budget", "1KB"),
        ("--memory-budget", "much"),
    ],
)
def test_a_bad_choice_of_how_to_adapt_is_refused_by_name(refused, option, value):
    assert value in refused("run", BUNDLE, "--input", STREAM, "--state", "s.db", option, value)


def test_a_frame_that_is_not_finite_is_named_before_anything_is_written(refused, tmp_path):
    x = np.zeros((40, 1, 8, 8), np.float32)
    x[[7, 33]] = np.nan
    np.savez(tmp_path / "bad.npz", x=x)
    said = refused("run", BUNDLE, "--input", "bad.npz", "--state", "new.db")
    assert "bad.npz: frame 7: holds NaN, infinite or too large values, and so do 1 more" in said
    assert "--skip-bad-frames" in said


@pytest.mark.parametrize("parts", [[5, None], 5, "layer1", {"a": 1}, None, [["x"]]])
def test_parts_that_are_no_names_are_no_traceback(bundle, seal, refused, parts):
    seal(bundle, lambda manifest: manifest["exported_from"].update(parts=parts))
    assert "parts" in refused("inspect", bundle)


def test_names_in_a_bundle_are_harmless_on_the_terminal(bundle, seal):
    evil = "x\x1b]0;owned\x07\x9b2J\u202e[/red]\n$\\x$"

    def change(manifest):
        manifest["name"] = evil
        manifest["exported_from"].update(checkpoint=evil, parts=[evil])

    seal(bundle, change)
    shown = run_command("inspect", bundle)
    assert shown.returncode == 0, shown.stderr
    assert all(c.isprintable() or c == "\n" for c in shown.stdout)
    assert r"x\x1b]0;owned\x07" in shown.stdout and "[/red]" in shown.stdout
    found = run_command("inspect", bundle, "--json")
    assert json.loads(found.stdout)["name"] == evil
    (bundle / "a\x1b[2J").write_text("x")
    failed = run_command("inspect", bundle)
    assert failed.returncode == 2 and "\x1b" not in failed.stderr


def test_names_of_contexts_are_harmless_in_tables_pictures_and_json(tmp_path, digits_stream):
    evil = "fog\x1b[2J[red]$\\frac$"
    x, y = (values[:48] for values in digits_stream)
    np.savez(tmp_path / "s.npz", x=x, y=y, context=[evil] * 48)
    words = ["run", BUNDLE, "--input", tmp_path / "s.npz", "--threads", "1"]
    shown = run_command(*words, "--plot", tmp_path / "p.svg")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr and r"fog\x1b[2J[red]$\frac$" in shown.stdout
    assert "\x1b" not in (tmp_path / "p.svg").read_text()
    found = run_command(*words, "--json")
    assert list(json.loads(found.stdout)["per_context"]) == [evil]
