"""The tutorial's commands, as they stand on the page, lead where it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-bundle.md").read_text(encoding="utf-8")


def commands():
    """Commands of the page in their order, lines that go on joined; without `pip` and `cd`."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    blocks = [text for language, text in fences if not language]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.split()[0] in ("python", "edgemem")]


def errors(text):
    """Context -> frozen error and error in per cent, of a table that `edgemem run` printed."""
    rows = re.findall(r"^ (\w+) +[\d,]+ +([\d.]+) % +([\d.]+) %", text, flags=re.MULTILINE)
    return {context: (float(frozen), float(own)) for context, frozen, own in rows}


def test_the_page_has_three_commands_after_its_data():
    names = [line.split()[:2] for line in commands()]
    assert names == [
        ["python", "examples/first_bundle/make_data.py"],
        ["edgemem", "warmup"],
        ["edgemem", "export"],
        ["edgemem", "run"],
    ]
    assert set(errors(PAGE)) == {"daylight", "dusk", "fog", "all"}


@pytest.mark.slow
def test_its_commands_run(tmp_path):
    tools, said = Path(sys.executable).parent, []
    for line in [*commands(), commands()[-1]]:
        program, *words = line.split()
        first = program == "python"
        if first:
            words = [str(ROOT / words[0]), "--out", str(tmp_path / "first")]
        found = subprocess.run(
            [tools / program, *words],
            cwd=ROOT if first else tmp_path / "first",
            env=os.environ | {"OMP_NUM_THREADS": "1", "TERMINAL_WIDTH": "100"},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        said.append(found.stdout)
    once, again = errors(said[-2]), errors(said[-1])
    assert once.keys() == again.keys() == errors(PAGE).keys()
    # As the page shows, whatever the machine rounds.
    assert once["dusk"][1] < once["dusk"][0] / 2 and again["all"][1] < once["all"][1]
