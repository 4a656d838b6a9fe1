"""The example that teaches three digits."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgemem

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "new_class"
SCRIPT = "new_class/teach.py"


def test_new_digits_are_told_and_the_known_ones_still_are(example, tmp_path):
    found = example(SCRIPT, "--json", "--state", "device.db")
    score = json.loads(found.stdout)
    accuracy = score["accuracy"]
    new = [accuracy[name] for name in ("seven", "eight", "nine")]
    assert all(before == 0 and after > 0 for before, after in new), accuracy
    assert sum(after for _, after in new) / len(new) >= 0.3, accuracy
    assert accuracy["all"][1] >= accuracy["all"][0] + 0.1, accuracy
    known = [accuracy[name] for name in ("zero", "one", "two", "three", "four", "five", "six")]
    assert all(after >= before - 0.05 for before, after in known), accuracy
    assert (tmp_path / score["picture"]).stat().st_size > 10_000
    with edgemem.open(FOLDER / "digits.edgemem", tmp_path / "device.db", threads=1) as device:
        assert [(c.name, c.frames) for c in device.classes() if not c.own] == [
            ("seven", 5), ("eight", 5), ("nine", 5),
        ]  # fmt: skip


def test_the_table_fits_80_columns(example):
    found = example(SCRIPT)
    lines = found.stdout.splitlines()
    assert found.returncode == 0 and max(map(len, lines)) <= 80, found
    assert lines[-1].startswith("Picture: ") and any(line.split()[:1] == ["nine"] for line in lines)


def test_a_refusal_is_one_line(refused, tmp_path):
    (tmp_path / "a.db").write_text("no state")
    assert "a.db" in refused(SCRIPT, "--state", str(tmp_path / "a.db"))
    assert "a.db" in refused(SCRIPT, "--out", str(tmp_path / "a.db"))


def test_accuracies_against_a_loop(module):
    digits, truth = ("zero", "one"), np.array([0, 1, 1, 0, 1])
    answers = [["zero", "zero", "one", "one", "one"], ["zero"] * 5]
    found = module("new_class", "shown").accuracies(truth, answers, digits)
    assert found["zero"] == [0.5, 1.0] and found["one"] == pytest.approx([2 / 3, 0])
    assert found["all"] == pytest.approx([3 / 5, 2 / 5])


def test_the_package_is_small():
    files = [
        file for file in FOLDER.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ]
    assert sum(file.stat().st_size for file in files) < 1_500_000


def test_the_script_is_short():
    assert len((FOLDER / "teach.py").read_text().splitlines()) < 60
