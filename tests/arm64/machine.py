"""The emulated device: a Debian arm64 root, a Python command in it, and a CPU to be."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "build" / "arm64"
DEBIAN = HERE / "debian" / "root"
SITE = HERE / "site"
TEST_SITE = HERE / "test-site"
PYTHON = DEBIAN / "usr/bin/python"
EDGEMEM = DEBIAN / "usr/bin/edgemem"
# What Linux says of the cores of a Raspberry Pi 4 and a Zero 2 W: libraries choose kernels by it.
PARTS = {"cortex-a72": "0xd08", "cortex-a53": "0xd03"}
CORE = """processor\t: {number}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
# Tests start their own processes by sys.executable and by the command beside it. Both are scripts
# that start the emulator, so nothing has to be registered with the kernel.
PYTHON_SCRIPT = """#!/bin/sh
exec {emulator} -cpu "$QEMU_CPU" -L {root} -0 "$0" {root}/usr/bin/python3.11 "$@"
"""
EDGEMEM_SCRIPT = """#!{python}
import sys
from edgemem.cli import main
sys.exit(main())
"""


def become(cpu):
    """Write the commands, and what the root says of its CPU."""
    scripts = {
        PYTHON: PYTHON_SCRIPT.format(emulator=HERE / "debian/qemu-aarch64-static", root=DEBIAN),
        EDGEMEM: EDGEMEM_SCRIPT.format(python=PYTHON),
    }
    for path, script in scripts.items():
        path.write_text(script)
        path.chmod(0o755)
    (DEBIAN / "proc").mkdir(exist_ok=True)
    cores = "".join(CORE.format(number=number, part=PARTS[cpu]) for number in range(4))
    (DEBIAN / "proc/cpuinfo").write_text(cores)


def environment(cpu, *more_sites):
    """Variables of a process on the device: its packages only, and nothing from the checkout."""
    scratch = HERE / "tmp"
    scratch.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    return kept | {
        "QEMU_CPU": cpu,
        "PYTHONPATH": os.pathsep.join(map(str, (SITE, *more_sites))),
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "TMPDIR": str(scratch),
    }


def output_of(cpu, *words):
    """Standard output of a command on the device; it must succeed."""
    finished = subprocess.run(
        list(map(str, words)), env=environment(cpu), capture_output=True, text=True, cwd=HERE
    )
    if finished.returncode:
        sys.exit(f"arm64: {cpu}: {words} failed:\n{finished.stdout}{finished.stderr}")
    return finished.stdout
