"""Where benchmarks keep what is slow to make, and by what they tell that it still holds."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def cache_home() -> Path:
    """The folder of what benchmarks keep."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "edgemem"


def code_meaning(path: Path) -> bytes:
    """A module without comments and docstrings: what of it decides how a run comes out."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        match node:
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                if ast.get_docstring(node, clean=False) is not None:
                    body[0] = ast.Pass()
    return ast.dump(tree).encode()


def digest(parts: Iterable[bytes]) -> str:
    """Of the parts in order, each with its length."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()
