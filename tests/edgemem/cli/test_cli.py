"""The device commands as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command

import edgemem
from edgemem.bundle.manifest_file import from_json
from edgemem.demo import BUNDLE, STREAM
from edgemem.runtime.tools.replay import replay
from edgemem.runtime.tools.stream import Stream
from edgemem.testing import session_of

COMMAND = Path(sys.executable).with_name("edgemem")
ONE = ("--threads", 1)
PNG = b"\x89PNG\r\n\x1a\n"


def installed(*arguments, cwd=None):
    """The installed command in a process of its own."""
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def run(*arguments, cwd=None, by=run_command):
    """Standard output and standard error of a command that does all that it should."""
    finished = by(*arguments, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout, finished.stderr


def as_json(*arguments, cwd=None, by=run_command):
    return json.loads(run(*arguments, "--json", cwd=cwd, by=by)[0])


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """The start of the packaged stream, two contexts long."""
    path = tmp_path_factory.mktemp("stream") / "short.npz"
    with np.load(STREAM) as data:
        np.savez(path, **{name: data[name][400:560] for name in data.files})
    return path


def test_run_prints_exactly_the_promised_keys_and_what_a_replay_gives(short):
    found = as_json("run", BUNDLE, "--input", short, "--threads", 1, by=installed)
    assert list(found) == [
        "frames", "error", "frozen_error", "per_context", "ms_per_frame", "peak_rss_mb", "events",
        "visits", "returns", "kilobytes_written", "rails", "skipped_frames", "notes",
    ]  # fmt: skip
    with edgemem.open(BUNDLE, threads=1) as runtime:
        expected = replay(runtime, Stream(short), chunk=16).as_dict()
    for name in ("frames", "error", "frozen_error", "per_context", "events"):
        assert found[name] == expected[name]
    assert 0 < found["peak_rss_mb"] < 150 and found["ms_per_frame"] > 0


def test_run_without_adaptation_changes_nothing(short, tmp_path):
    found = as_json(
        "run", BUNDLE, "--input", short, "--no-adapt", *ONE, "--state", tmp_path / "s.db"
    )
    assert found["events"] == {}
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        for name, array in runtime.bundle.generic.items():
            np.testing.assert_array_equal(session_of(runtime).block[name], array)


def test_run_continues_from_its_state_file(short, tmp_path):
    for count in (160, 320):
        as_json("run", BUNDLE, "--input", short, "--state", tmp_path / "s.db", *ONE, "--chunk", 7)
        with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
            assert runtime.counters["frames"] == count
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


def test_run_takes_hyper_parameters(short):
    source = as_json("run", BUNDLE, "--input", short, "--no-adapt", *ONE, "--set", "alpha=0")
    other = as_json("run", BUNDLE, "--input", short, "--no-adapt", *ONE, "--set", "alpha=1")
    assert source["error"] != other["error"]


def test_run_prints_tables_and_saves_a_picture(short, tmp_path):
    picture = tmp_path / "errors.png"
    out, _ = run("run", BUNDLE, "--input", short, "--plot", picture, by=installed)
    assert picture.read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["errors.png"]
    for word in ("noise", "fog", "all", "160", "frozen error", "ms per frame", "adapted"):
        assert word in out, out


def test_inspect_prints_the_manifest_byte_for_byte():
    out, _ = run("inspect", BUNDLE, "--json", by=installed)
    assert out.encode() == (BUNDLE / "manifest.json").read_bytes()
    manifest = from_json(out.encode(), "printed")
    table, _ = run("inspect", BUNDLE)
    for word in (*manifest.files, *manifest.hyper_parameters, f"{manifest.block.nbytes:,}"):
        assert word in table, table


def test_verify_prints_differences_below_the_limit():
    found = as_json("verify", BUNDLE, by=installed)
    assert set(found) == {"files", "engine", "limits", "frozen", "adapt", "adapted"}
    assert found["limits"] == dict.fromkeys(("frozen", "adapt", "adapted"), 1e-4)
    assert all(found[name] <= limit for name, limit in found["limits"].items())
    table, _ = run("verify", BUNDLE)
    assert f"{found['frozen']:.1e}" in table and "1e-04" in table


def test_doctor_says_what_this_machine_can_do():
    found = as_json("doctor", by=installed)
    assert found["edgemem"] == edgemem.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["able"]["run bundles"] is True
    assert found["able"]["warm up"] == (found["packages"]["torch"] is not None)
    assert found["engines"]["cpu"] == "here" and "bundle" not in found
    table, _ = run("doctor", BUNDLE)
    assert np.__version__ in table and "run bundles" in table
    assert "edgemem[litert]" in table and "digits.edgemem here" in table


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path):
    found = as_json("demo", "--out", tmp_path / "new" / "folder", by=installed)
    assert {
        "frozen_error", "adapted_error", "contexts", "ms_per_frame", "peak_rss_mb", "frames",
        "plot",
    } <= set(found)  # fmt: skip
    with np.load(STREAM) as data:
        contexts, labels = data["context"], data["y"]
        x = data["x"]
    assert found["frames"] == len(labels)
    assert set(found["contexts"]) == set(contexts)
    with edgemem.open(BUNDLE, threads=1) as runtime:
        wrong = runtime.predict(x, frozen=True).labels != labels
        assert found["frozen_error"] == wrong.mean()
        for name, row in found["contexts"].items():
            assert row["frozen"] == wrong[contexts == name].mean()
        adapted = np.concatenate([runtime.step(x[i : i + 16]).labels for i in range(0, len(x), 16)])
    assert found["adapted_error"] == (adapted != labels).mean()
    assert found["adapted_error"] <= 0.8 * found["frozen_error"]
    assert found["peak_rss_mb"] < 150
    assert Path(found["plot"]).parent == tmp_path / "new" / "folder"
    assert Path(found["plot"]).read_bytes().startswith(PNG)


@pytest.mark.slow
def test_the_demo_prints_a_table_where_it_is_started(tmp_path):
    out, _ = run("demo", cwd=tmp_path, by=installed)
    for word in ("fog", "frozen", "statistics", "adapted", "returns", "ms per frame", "no torch"):
        assert word in out, out
    assert (tmp_path / "results" / "demo.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "command",
    ["run", "inspect", "verify", "doctor", "demo", "warmup", "export", "train-prototypes"],
)
def test_the_help_of_every_command_has_an_example(command):
    assert f"Example: edgemem {command}" in run(command, "--help")[0]


def test_the_help_lists_every_command():
    listed = run("--help", by=installed)[0]
    for command in (
        "run", "inspect", "verify", "doctor", "demo", "warmup", "export", "train-prototypes",
    ):  # fmt: skip
        assert f"│ {command} " in listed


@pytest.mark.skipif(shutil.which("head") is None, reason="needs a pipe to cut")
def test_a_reader_that_goes_away_is_no_traceback():
    finished = subprocess.run(
        f"'{COMMAND}' inspect '{BUNDLE}' --json | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert finished.stdout == "{\n" and "Traceback" not in finished.stderr


ONE_BY_ONE = """
import json, sys
from edgemem.cli import main
for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (sys.argv, ended.code)
"""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "koi8-r"])
def test_terminals_without_utf8_get_plain_signs_and_no_error(short, encoding):
    """A table with a dash, a picture of a bar, and help with its frames, one after the other."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    commands = (
        ("inspect", BUNDLE),
        ("run", BUNDLE, "--input", short, "--threads", 1),
        ("run", "--help"),
    )
    words = json.dumps([["edgemem", *map(str, command)] for command in commands])
    finished = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE, words], capture_output=True, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    for output in (finished.stdout, finished.stderr):
        text = output.decode(encoding)
        assert b"\\u" not in output and "?" not in text.replace("(y/n)?", "")
        assert "Traceback" not in text
    for word in ("hyper-parameter", "ms per frame", "Example: edgemem run"):
        assert word in finished.stdout.decode(encoding)


def test_a_run_without_labels_has_dashes_in_every_encoding(short, tmp_path):
    with np.load(short) as data:
        np.savez(tmp_path / "bare.npz", x=data["x"])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    finished = subprocess.run(
        [COMMAND, "run", str(BUNDLE), "--input", str(tmp_path / "bare.npz"), "--threads", "1"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    row = next(line for line in finished.stdout.splitlines() if "160" in line)
    assert row.count("-") == 2


def test_bad_frames_are_skipped_and_counted_by_option(short, tmp_path):
    with np.load(short) as data:
        x = data["x"].astype(np.float32) / 255
        good, y = np.delete(np.arange(160), [3, 70, 71]), data["y"]
    whole = x.copy()
    x[[3, 70, 71], 0, 4, 4] = [np.nan, np.inf, np.nan]
    np.savez(tmp_path / "bad.npz", x=x, y=y)
    np.savez(tmp_path / "good.npz", x=whole[good], y=y[good])
    found = as_json(
        "run", BUNDLE, "--input", tmp_path / "bad.npz", "--skip-bad-frames", *ONE, "--chunk", 1
    )
    expected = as_json("run", BUNDLE, "--input", tmp_path / "good.npz", *ONE, "--chunk", 1)
    assert found["skipped_frames"] == 3 and expected["skipped_frames"] == 0
    for name in ("frames", "error", "frozen_error", "events"):
        assert found[name] == expected[name]
    text, _ = run("run", BUNDLE, "--input", tmp_path / "bad.npz", "--skip-bad-frames")
    assert "skipped 3 frames that hold NaN, infinite or too large values" in text


def test_frames_of_another_scale_are_said(short, tmp_path):
    with np.load(short) as data:
        np.savez(tmp_path / "bytes.npz", x=data["x"].astype(np.float32))
    text, _ = run("run", BUNDLE, "--input", tmp_path / "bytes.npz", "--threads", 1)
    assert "source frames ran from 0 to 1; are they scaled alike?" in text
