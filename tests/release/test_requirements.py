"""What a device installs: exact, hashed, and the versions that are tested."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(text):
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", text, re.MULTILINE)
    }


def test_every_requirement_of_a_device_has_hashes_and_the_tested_version():
    text = (ROOT / "release/device-requirements.txt").read_text()
    entries = [e for e in re.split(r"\n(?=[A-Za-z])", text) if not e.startswith("#")]
    assert all("--hash=sha256:" in entry for entry in entries)
    device, tested = pinned(text), pinned((ROOT / "constraints.txt").read_text())
    assert {canonicalize_name(Requirement(d).name) for d in PROJECT["dependencies"]} <= set(device)
    for name, version in device.items():
        assert tested.get(name, version) == version, name


def test_tested_versions_are_within_what_the_project_allows():
    tested = pinned((ROOT / "constraints.txt").read_text())
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)])
