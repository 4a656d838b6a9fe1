"""Memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes); NaN where unknown."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the parent used before it started this process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def give_back_freed() -> None:
    """Hand freed memory back to the system, where the C library (glibc) keeps it unless asked."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
