"""The device side on an emulated Raspberry Pi: what pip installs, tests, runs, kills, memory.

Every check ends the program with an error where it fails. A table of what was found comes last.
"""

import json
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import machine
import packages
from suite import LEAST_PASSED, LEFT_OUT, LEFT_OUT_TESTS, chosen

HERE = Path(__file__).parent
BUNDLE = machine.SITE / "edgemem/demo/digits.edgemem"
FRAMES = 800
KILLS = 4
EXTRA_MB = 256
ROWS = []


def found(what, result, start):
    """Print a line at once, and keep it for the table."""
    ROWS.append((what, result, f"{time.monotonic() - start:.0f} s"))
    print(f"arm64: {what}: {result}", flush=True)


def check_packages():
    """What pip takes on Raspberry Pi OS, and how large it is."""
    wheel = packages.build_wheel()
    for system, (python, _) in packages.SYSTEMS.items():
        start = time.monotonic()
        folder, versions = packages.resolve(wheel, system)
        named = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "onnxruntime", "typer"))
        found(f"pip, {system}, Python {python}", f"{len(versions)} wheels: {named}", start)
        (ours, ours_code), (base, base_code) = packages.sizes(folder, python)
        result = (
            f"{ours / 1e6:.1f} MB, numpy and onnxruntime alone {base / 1e6:.1f} MB, "
            f"{ours / base:.3f}x; with bytecode {ours_code / base_code:.3f}x"
        )
        found(f"size, {system}", result, start)
        assert ours <= packages.LIMIT * base, f"more than {packages.LIMIT}x: {result}"
        shutil.rmtree(folder)
    start = time.monotonic()
    packages.emulated(wheel)
    print(f"arm64: emulated environment installed in {time.monotonic() - start:.0f} s", flush=True)


def check_device(cpu):
    """The machine is what it should be, and computes what torch computed."""
    start = time.monotonic()
    doctor = json.loads(machine.output_of(cpu, machine.EDGEMEM, "doctor", "--json"))
    held = doctor["packages"]
    assert doctor["machine"] == "aarch64" and not held["torch"] and not held["onnx"], doctor
    versions = f"Python {doctor['python']}, onnxruntime {held['onnxruntime']}"
    found(f"{cpu}: edgemem doctor", f"{doctor['machine']}, {versions}", start)
    start = time.monotonic()
    words = (machine.EDGEMEM, "verify", BUNDLE, "--threads", 1, "--json")
    verified = json.loads(machine.output_of(cpu, *words))
    worst = max(verified[name] for name in ("frozen", "adapt", "adapted"))
    found(f"{cpu}: edgemem verify", f"within {worst:.1e} of torch, of the largest logit", start)


def check_tests(cpu):
    """The tests of the device side, but for those that `suite` leaves out."""
    start = time.monotonic()
    files = chosen(cpu)
    words = [machine.PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    words += [
        f"--basetemp={machine.HERE / 'tmp/pytest'}",
        "--durations=5",
        "--hypothesis-profile=few",
    ]
    left_out = [test for test in LEFT_OUT_TESTS if test.partition("::")[0] in files]
    words += [f"--deselect={test}" for test in left_out]
    finished = subprocess.run(
        list(map(str, words)),
        env=machine.environment(cpu, machine.TEST_SITE),
        stdout=subprocess.PIPE,
        text=True,
        cwd=machine.ROOT,
    )
    print(finished.stdout, flush=True)
    assert finished.returncode == 0, f"{cpu}: tests failed"
    assert f", {len(left_out)} deselected" in finished.stdout, "a test left out is not there"
    passed = int(re.findall(r"(\d+) passed", finished.stdout)[-1])
    assert passed >= LEAST_PASSED[cpu], f"{cpu}: only {passed} tests ran"
    found(f"{cpu}: tests", f"{passed} passed, of {len(files)} modules", start)


def check_run(cpu):
    """The demo in short form: the first contexts of its stream through the command line."""
    start = time.monotonic()
    code = (
        "import numpy as np, edgemem.demo as demo; data = np.load(demo.STREAM);"
        f"np.savez('short.npz', **{{name: data[name][:{FRAMES}] for name in data}})"
    )
    machine.output_of(cpu, machine.PYTHON, "-c", code)
    words = ("run", BUNDLE, "--input", "short.npz", "--threads", 1, "--json")
    report = json.loads(machine.output_of(cpu, machine.EDGEMEM, *words))
    assert report["frames"] == FRAMES and report["error"] < report["frozen_error"], report
    result = f"error {report['error']:.1%}, frozen {report['frozen_error']:.1%}"
    found(f"{cpu}: edgemem run, {FRAMES} frames", result, start)


def guest(cpu, script, *arguments):
    """Start one of our scripts on the device."""
    return subprocess.Popen(
        [machine.PYTHON, HERE / script, *map(str, arguments)],
        env=machine.environment(cpu),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=machine.HERE,
    )


def memory_of(process):
    """Kilobytes by name, as Linux tells them of a process: here of emulator and device together."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}


def check_memory(cpu):
    """The short run with little address space beyond the interpreter and its libraries.

    The emulator passes no limit on address space on, so the emulator itself is limited: what it
    needs for the device's code and threads counts too, which makes the limit the stricter.
    """
    start = time.monotonic()
    with guest(cpu, "guest_stream.py", FRAMES) as process:
        assert process.stdout.readline() == "imported\n"
        mapped = memory_of(process)["VmSize"] * 1024
        limit = mapped + EXTRA_MB * 1_000_000
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "refused\n", "300 MB were given"
        peak = {}
        while not select.select([process.stdout], [], [], 0.2)[0]:
            peak = memory_of(process)
        words = process.stdout.read().split()
    assert process.returncode == 0 and len(words) == 2, (process.returncode, words)
    error, frozen = map(float, words)
    assert error < frozen, (error, frozen)
    more = (peak["VmPeak"] * 1024 - mapped) / 1e6
    result = (
        f"error {error:.1%}, frozen {frozen:.1%}; {mapped / 1e6:.0f} MB mapped after the imports, "
        f"at most {more:.0f} MB more; 300 MB refused"
    )
    found(f"{cpu}: {FRAMES} frames, {EXTRA_MB} MB of address space", result, start)


def check_kills(cpu):
    """SIGKILL in the middle of steps: the state is whole, and outputs are those of no kill."""
    start, numbers = time.monotonic(), random.Random(0)
    state, whole = machine.HERE / "tmp/killed.db", machine.HERE / "tmp/whole.db"
    for left in [*state.parent.glob("killed.db*"), *state.parent.glob("whole.db*")]:
        left.unlink()
    said = {}
    for _ in range(KILLS):
        with guest(cpu, "guest_steps.py", state, max(said, default=0), 4800) as process:
            assert process.stdout.readline() == "whole\n"
            lines = [process.stdout.readline() for _ in range(numbers.randrange(1, 4))]
            time.sleep(numbers.uniform(0, 1))
            process.kill()
            lines += process.stdout.read().splitlines()
        assert process.returncode == -signal.SIGKILL, process.returncode
        said |= {int(frames): digest for frames, digest in map(str.split, lines)}
    with guest(cpu, "guest_steps.py", state, max(said), max(said) + 32) as process:
        first, *lines = process.stdout.read().splitlines()
    assert (first, process.returncode) == ("whole", 0)
    said |= {int(frames): digest for frames, digest in map(str.split, lines)}
    with guest(cpu, "guest_steps.py", whole, 0, max(said)) as process:
        lines = process.stdout.read().splitlines()[1:]
    expected = {int(frames): digest for frames, digest in map(str.split, lines)}
    # A commit whose line was killed is known by what comes after it.
    assert said and said.items() <= expected.items(), (said, expected)
    result = (
        f"{KILLS} kills in {len(expected)} committed steps: the state whole after each, "
        "logits bit for bit those of a run without kills"
    )
    found(f"{cpu}: kill -9 while stepping", result, start)


def main():
    """All checks, on one CPU after the other."""
    start = time.monotonic()
    check_packages()
    for reason, names in LEFT_OUT.items():
        print(f"arm64: left out, {reason}: {', '.join(names)}")
    for test, reason in LEFT_OUT_TESTS.items():
        print(f"arm64: left out, {reason}: {test}")
    for cpu in machine.PARTS:
        machine.become(cpu)
        check_device(cpu)
        check_memory(cpu) if cpu == "cortex-a53" else check_run(cpu)
        check_kills(cpu)
        check_tests(cpu)
    width = max(len(row[0]) for row in ROWS)
    print("\nDebian 12 arm64, emulated; the time is that of this machine, not of a device")
    for what, result, seconds in ROWS:
        print(f"{what:<{width}}  {seconds:>6}  {result}")
    print(f"arm64: all passed in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
