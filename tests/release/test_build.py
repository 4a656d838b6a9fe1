"""The wheel and the sdist of a commit are the same bytes, whoever makes them, wherever and when."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout"),
]


def built(folder, umask, zone):
    """Archives by name, made from a clone with other modes, times and folder."""
    before = os.umask(umask)
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for file in folder.glob("edgemem/*.py"):
            os.utime(file, (umask, umask))
        subprocess.run(
            ["sh", "release/build.sh", sys.executable, "dist"],
            cwd=folder, env={**os.environ, "TZ": zone, "LC_ALL": "C"}, check=True,
            capture_output=True,
        )  # fmt: skip
    finally:
        os.umask(before)
    return {file.name: file for file in (folder / "dist").iterdir()}


def test_two_builds_are_the_same_to_the_byte(tmp_path):
    first = built(tmp_path / "one", 0o022, "UTC")
    second = built(tmp_path / "other place", 0o077, "Asia/Tokyo")
    assert sorted(name.split("-")[-1] for name in first) == ["0.1.0.tar.gz", "any.whl"]
    for name, file in first.items():
        one, other = (hashlib.sha256(f.read_bytes()).hexdigest() for f in (file, second[name]))
        assert one == other, name
    sdist = next(file for name, file in first.items() if name.endswith(".tar.gz"))
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "", "")}
        assert any(m.name.endswith("edgemem/bundle/manifest.py") for m in members)
    wheel = next(file for name, file in first.items() if name.endswith(".whl"))
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert modes <= {0o644, 0o664}  # the second: setuptools' own for what it makes up
