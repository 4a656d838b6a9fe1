"""What every benchmark says about itself: setting, versions, and where its figures go."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import textwrap
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

PACKAGES = ("edgemem", "numpy", "onnxruntime", "torch", "onnx")


def command_line(
    about: str | None, example: str, *, quick: str | None = None, threads: int | None = None
) -> argparse.ArgumentParser:
    """The options that benchmarks share.

    about: docstring of the module. quick: what `--quick` does, where there is one. threads: the
    default of `--threads`, likewise.
    """
    parser = argparse.ArgumentParser(description=about, epilog=f"example: python -m {example}")
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help=quick)
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help=f"default {threads}")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER")
    return parser


def setting(**choices: Any) -> dict[str, Any]:
    """What a reader needs to know to judge or repeat the figures; choices: those of this run."""
    return {
        "date": date.today().isoformat(),
        **choices,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def setting_text(found: Mapping[str, Any], choices: str) -> str:
    """A setting as a paragraph; choices: those of this run in words."""
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", *PACKAGES))
    text = f"{found['date']}; {choices}; {found['machine']}, {found['cores']} cores; {versions}"
    return textwrap.fill(text, 80)


def save_json(found: Mapping[str, Any], *paths: Path | None) -> None:
    """Write the figures to every path that is given."""
    for path in filter(None, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


def whole(text: str) -> int:
    """Parser of a number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
