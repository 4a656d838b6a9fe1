"""The bundle as `edgemem tune` leaves it: chosen by source frames with synthetic shifts alone."""

from __future__ import annotations

from pathlib import Path

from edgemem.cli.tune import tune


def write_tuned(folder: Path) -> None:
    """Tune the default bundle of a prepared folder by the source frames that peers may use."""
    bundles = folder / "bundles"
    out = bundles / "tuned.edgemem"
    tune(bundles / "remembered.edgemem", source=folder / "source.npz", out=out, threads=1)
