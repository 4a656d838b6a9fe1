"""Where benchmarks keep what is slow to make."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """The folder of what benchmarks keep."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "edgemem"
