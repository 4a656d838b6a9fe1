"""The accelerometer example, without an accelerometer."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgemem import InputError

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "sensors"
SCRIPT = "sensors/activities.py"
GOOD = ["t,x,y,z"] + [f"{k / 50},0.01,0.0,{1 + 0.02 * (k % 2)}" for k in range(600)]


def test_a_phone_that_is_worn_elsewhere_is_understood_better(example, tmp_path):
    found = example(SCRIPT, "--json")
    score = json.loads(found.stdout)
    assert score["labelled"] == 1728 and len(score["contexts"]) == 6
    assert score["contexts"]["front pocket"]["frozen_error"] <= 0.02
    assert score["frozen_error"] >= 0.15
    assert score["adapted_error"] <= score["frozen_error"] - 0.05, score
    assert (tmp_path / score["picture"]).stat().st_size > 10_000


def test_the_table_fits_80_columns(example):
    found = example(SCRIPT, "--windows", "20", "--visits", "1")
    lines = found.stdout.splitlines()
    assert found.returncode == 0 and max(map(len, lines)) <= 80, found
    assert lines[-1].startswith("Answers: ") and any("front pocket" in line for line in lines)


def test_a_recording(example, tmp_path):
    """Twelve seconds at 100 Hz in m/s², somebody standing; a gap of a second is left out."""
    times = np.concatenate([np.arange(0, 6, 0.01), np.arange(7, 13, 0.01)])
    rng = np.random.default_rng(0)
    noise = 0.08 * rng.normal(size=(len(times), 3))
    rows = [
        f"{t:.2f},{x:.4f},{y:.4f},{9.8 + z:.4f},still"
        for t, (x, y, z) in zip(times, noise, strict=True)
    ]
    (tmp_path / "stand.csv").write_text("\n".join(["t,x,y,z,activity", *rows]))
    options = ("--input", "stand.csv", "--metres", "--every", "1", "--state", "a.db", "--json")
    score = json.loads(example(SCRIPT, *options).stdout)
    assert score["labelled"] == 8 and score["frozen_error"] == 0.0
    assert (tmp_path / "a.db").exists()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (None, "does not exist"),
        ([], "has no column t, x, y, z"),
        (["t,x,y", "0,1,2"], "has no column z"),
        (["t,x,y,z"], "holds no sample"),
        ([*GOOD[:9], "0.2,a,0,1"], "line 10: is not four numbers"),
        ([*GOOD[:9], "0.2,1"], "line 10: is not four numbers"),
        ([*GOOD[:9], "0.1,0,0,1"], "line 10: is not later"),
        ([*GOOD[:9], "0.2,nan,0,1"], "holds NaN"),
        (GOOD[:90], "holds 1.76 seconds"),
        (GOOD[:1] + GOOD[1::20], "has gaps in every window"),
    ],
)
def test_what_it_cannot_use_is_told(module, tmp_path, lines, reason):
    if lines is not None:
        (tmp_path / "a.csv").write_text("\n".join(lines))
    readings = module("sensors", "readings")
    with pytest.raises(InputError, match=reason):
        list(readings.csv_windows(tmp_path / "a.csv", every=1.0, metres=False))


def test_a_refusal_is_one_line(refused, tmp_path):
    (tmp_path / "a.csv").write_text("t,x,y\n0,1,2")
    assert "a.csv: has no column z" in refused(SCRIPT, "--input", "a.csv")
    assert "cannot be read" in refused(SCRIPT, "--input", str(tmp_path))
    assert "are too small" in refused(SCRIPT, "--together", "0")


def test_the_bundle_is_small():
    files = [file for file in (FOLDER / "activities.edgemem").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 400_000
