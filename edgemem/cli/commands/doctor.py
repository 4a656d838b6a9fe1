"""The command that says what this machine can do: doctor."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemem.cli.arguments import Json
from edgemem.cli.show import print_json, print_table
from edgemem.errors import InputError
from edgemem.version import VERSION

PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-qnn", "ai-edge-litert", "tflite-runtime", "safetensors",
    "matplotlib", "torch", "onnx", "onnxscript", "litert-torch",
)  # fmt: skip
EXTRAS = {  # what a machine may be able to do -> the extra that brings it
    "run bundles": "litert",
    "draw plots": "plot",
    "warm up": "train",
    "export": "export",
    "export for LiteRT": "export-litert",
}


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle: say what can run it, too.")] = None,
    json: Json = False,
) -> None:
    """Show versions, engines, and what this machine can do, with a bundle or without.

    Example: edgemem doctor camera.edgemem
    """
    from edgemem.runtime.engines.providers import PROVIDERS, missing

    versions = {name: _version(name) for name in PACKAGES}
    engines = {name: missing(provider) for name, provider in PROVIDERS.items()}
    able = {
        "run bundles": not all(engines.values()),
        "draw plots": versions["matplotlib"] is not None,
        "warm up": versions["torch"] is not None,
        "export": None not in (versions["torch"], versions["onnx"], versions["onnxscript"]),
        "export for LiteRT": versions["litert-torch"] is not None,
    }
    runs = None if bundle is None else _runs(bundle)
    if json:
        print_json(
            {
                "edgemem": VERSION,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "packages": versions,
                "engines": {name: reason or "here" for name, reason in engines.items()},
                "able": able,
                **({} if runs is None else {"bundle": runs}),
            }
        )
        return
    _print_machine(versions, engines, able)
    if bundle is not None and runs is not None:
        print_table(f"{bundle.name} here", ("provider", ""), list(runs.items()))


def _print_machine(
    versions: dict[str, str | None], engines: dict[str, str | None], able: dict[str, bool]
) -> None:
    """Packages, engines (by provider, what is missing) and abilities, as tables."""
    print_table(
        f"edgemem {VERSION}, Python {platform.python_version()}, {platform.machine()}",
        ("package", "version"),
        [(name, version or "not installed") for name, version in versions.items()],
    )
    print_table(
        "engines, by what provider= takes",
        ("provider", ""),
        [(name, _engine_text(name, reason)) for name, reason in engines.items()],
    )
    print_table(
        "this machine can",
        ("what", ""),
        [
            (what, "yes" if yes else f"pip install 'edgemem[{EXTRAS[what]}]'")
            for what, yes in able.items()
        ],
    )


def _engine_text(name: str, reason: str | None) -> str:
    from edgemem.runtime.engines.providers import PROVIDERS, is_emulated

    if reason is not None:
        return f"needs {PROVIDERS[name].needs}"
    return "here, emulated" if is_emulated(PROVIDERS[name]) else "here"


def _runs(path: Path) -> dict[str, str]:
    """Of every provider, whether it runs the bundle here; and the one that would be picked."""
    from edgemem.bundle.opening import open_bundle
    from edgemem.runtime.engines.choice import choose, usable
    from edgemem.runtime.engines.providers import PROVIDERS

    opened = open_bundle(path)
    step = "adapt" if "adapt" in opened.manifest.graphs else ""
    found = {
        name: usable(opened, provider, adapt=bool(step)) or "yes"
        for name, provider in PROVIDERS.items()
    }
    try:
        picked = choose(opened, step=step)
    except InputError as error:
        return found | {"auto": error.remedy}
    failed = {name: f"fails: {picked.passed_over[name]}" for name in picked.failed}
    return found | failed | {"auto": f"{picked.provider} ({picked.backend.name})"}


def _version(package: str) -> str | None:
    if package in sys.modules:
        return str(getattr(sys.modules[package], "__version__", "?"))
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
