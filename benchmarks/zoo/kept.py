"""Rows that were made before, a file each: the matrix takes hours, and goes on where it stopped."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.shared.cache import code_meaning, digest

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = ("edgemem/**/*.py", "runtime/**/*.py", "export/**/*.py", "models/**/*.py")
OURS = ("worker.py", "frames.py", "calibrated.py")
CODE = (*LIBRARY, *(f"benchmarks/zoo/{name}" for name in OURS))
PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "timm", "torchvision", "transformers")


@functools.cache
def made_with() -> dict[str, str]:
    """What decides a row: versions of packages, and the code."""
    paths = [path for pattern in CODE for path in sorted(REPOSITORY.glob(pattern))]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**versions, "code": digest(map(code_meaning, paths))[:16]}


def row_path(folder: Path, label: str) -> Path:
    """Where a row is kept."""
    return folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', label)}.json"


def kept(folder: Path, label: str) -> dict[str, Any] | None:
    """The row, whatever it was made with; None where there is none."""
    path = row_path(folder, label)
    if not path.exists():
        return None
    row: dict[str, Any] = json.loads(path.read_text())
    return row


def keep(folder: Path, label: str, row: dict[str, Any]) -> None:
    """Write a row."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = row_path(folder, label).with_suffix(".draft")
    draft.write_text(json.dumps(row | {"made_with": made_with()}, indent=1) + "\n")
    draft.replace(row_path(folder, label))
