"""CHANGELOG names every command."""

import re
from pathlib import Path

from typer.main import get_command

from edgemem.cli import app

CHANGELOG = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_command_is_named():
    top = get_command(app).commands
    names = [*top, *top["bank"].commands]
    line = re.search(r"^- Commands (.*?)^- ", CHANGELOG, flags=re.MULTILINE | re.DOTALL)[1]
    assert sorted(set(re.findall(r"`([\w-]+)`", line))) == sorted(set(names))
