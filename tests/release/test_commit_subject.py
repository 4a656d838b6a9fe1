"""The hook that looks at messages of commits."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "release" / "commit_subject.py"


@pytest.mark.parametrize(
    "message, code",
    [
        ("x" * 72, 0),
        ("x" * 73, 1),
        ("Subject\n\nBody that is " + "long " * 30, 0),
        ("Subject\nand no empty line", 1),
        ("\n# a remark of git's\n" + "x" * 73, 1),
        ("Subject\n# " + "x" * 100, 0),
        ("", 0),
    ],
)
def test_a_subject_has_at_most_72_characters(tmp_path, message, code):
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_text(message, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), str(path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == code and bool(found.stderr) == bool(code)
