"""What must be the same for numbers to be the same to the bit."""

import hashlib
import platform
from pathlib import Path

import numpy as np
import onnxruntime


def machine():
    """The processor, by name and by a hash of what it can do, and the versions that compute."""
    name, flags = platform.processor() or platform.machine(), ""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = " ".join(sorted(value.split()))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": name,
        "instructions": hashlib.sha256(flags.encode()).hexdigest(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
