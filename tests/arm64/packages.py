"""Wheels for the device: what pip resolves there, what it takes, and the emulated environment."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions

from machine import HERE, ROOT, SITE, TEST_SITE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Raspberry Pi OS by the Debian under it: Python and the minor version of glibc 2.
SYSTEMS = {"Debian 12": ("3.11", 36), "Debian 13": ("3.13", 41)}
LIMIT = 1.1


def pip(*words):
    """Run pip of this environment; its warnings are about this machine, not about the device."""
    command = [sys.executable, "-m", "pip", *map(str, words)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"arm64: pip failed: {command}\n{finished.stdout}{finished.stderr}")


def build_wheel():
    """The wheel of this checkout."""
    folder = HERE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("edgemem-*.whl"))


def install(folder, system, *wanted):
    """Install wheels as pip on that system chooses them; nothing is built. Returns pip's report."""
    python, newest = SYSTEMS[system]
    tags = ["manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, newest + 1))]
    shutil.rmtree(folder, ignore_errors=True)
    report = HERE / "report.json"
    pip(
        *("install", "--ignore-installed", "--only-binary=:all:", "--target", folder),
        *("--python-version", python, "--report", report),
        *(word for tag in tags for word in ("--platform", tag)),
        *wanted,
    )
    return [item["metadata"] for item in json.loads(report.read_text())["install"]]


def needs(requirements, python):
    """Names that a package needs on the device. pip evaluates markers for this machine only."""
    device = {
        "platform_machine": "aarch64",
        "python_version": python,
        "python_full_version": f"{python}.2",
        "extra": "",
    }
    for requirement in map(Requirement, requirements or ()):
        if requirement.marker is None or requirement.marker.evaluate(device):
            yield canonicalize_name(requirement.name), requirement.specifier


def resolve(wheel, system):
    """Install the newest versions that a system takes; every requirement must be met."""
    folder = HERE / f"newest-{SYSTEMS[system][0]}"
    found = install(folder, system, wheel)
    versions = {canonicalize_name(one["name"]): one["version"] for one in found}
    for one in found:
        for name, allowed in needs(one.get("requires_dist"), SYSTEMS[system][0]):
            assert name in versions, f"{system}: {one['name']} needs {name}, which is not installed"
            assert allowed.contains(versions[name]), (system, one["name"], name, versions[name])
    return folder, versions


def sizes(folder, python):
    """Bytes of edgemem with all it needs, and of numpy and onnxruntime with all they need.

    Each as (files of the wheels, with the bytecode that pip writes beside them).
    """
    all_there = distributions(path=[str(folder)])
    installed = {canonicalize_name(one.metadata["Name"]): one for one in all_there}

    def closure(names):
        todo, done = list(names), set()
        while todo:
            if (name := todo.pop()) not in done:
                done.add(name)
                todo += [need for need, _ in needs(installed[name].requires, python)]
        return done

    def size(names):
        paths = {path.locate() for name in names for path in installed[name].files}
        found = {path: path.stat().st_size for path in paths if path.is_file()}
        code = sum(count for path, count in found.items() if path.suffix == ".pyc")
        return sum(found.values()) - code, sum(found.values())

    return size(closure(["edgemem"])), size(closure(["numpy", "onnxruntime"]))


def emulated(wheel):
    """Install what the emulated environment holds, and beside it what its tests need."""
    pins = {}
    for file in (ROOT / "constraints.txt", ROOT / "tests/arm64/constraints.txt"):
        lines = (line for line in file.read_text().splitlines() if "==" in line)
        pins |= {line.partition("==")[0]: line for line in lines}
    constraints = HERE / "constraints.txt"
    constraints.write_text("\n".join(pins.values()) + "\n")
    limited = ("--constraint", constraints)
    install(SITE, "Debian 12", *limited, wheel)
    install(TEST_SITE, "Debian 12", *limited, "pytest", "hypothesis", "onnx")
