"""Very many steps and openings: memory, descriptors and the file must not grow with them."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
from counts import Row
from device import batch, fast_folder, holds, knows_cat, lesson, opened
from teachable import stream_of

from edgemem.runtime.contexts import context_files

RETURNING = 8  # contexts, which come back again and again
SMALL_BANK = 16_000  # bytes: less than written blocks take where contexts are ever new ones
VISIT, LESSONS, FLUSHES = 20, 500, 200  # steps between two of them
STEPS_AN_OPENING = 100  # that stand for one opening, in how long a run is
SAMPLES = 120
AWAY = 7.0  # distance of a context from the source
# How much more there may be in the last quarter of a run than in the second. Memory in use is
# exact: 256 KiB are 5 bytes a step in 100,000 steps. Resident memory has fragments in it, too.
MOST_MORE = {
    "memory in use": 1 << 18,
    "resident memory": 8 << 20,
    "descriptors": 0,
    "file": 1 << 16,
}


def run(bundle, steps, told):
    """A run for each kind of contexts: its row, and its samples by name. told: called for each
    sample."""
    rows, samples = [], {}
    for kind in KINDS:
        row = Row(kind, old=None, new=None, losses=None)
        rows.append(row)
        if not hasattr(ctypes.CDLL(None), "mallinfo2") or not Path("/proc/self/statm").exists():
            row.skipped = "memory and descriptors are counted on Linux with glibc 2.33 alone"
            continue
        count = steps if kind != "openings" else steps // STEPS_AN_OPENING
        samples[kind] = sampled(bundle, count, kind, told)
        row.cases = int(samples[kind]["steps"][-1])
        row.failures = trends(samples[kind])
    return rows, samples


def trends(samples):
    """What grew from the second quarter of a run to its last."""
    found, quarter = [], len(samples["steps"]) // 4
    for name, most in MOST_MORE.items():
        values = samples[name]
        more = median(values[-quarter:]) - median(values[quarter : 2 * quarter])
        if more > most:
            found.append(f"{name} grew by {more:,.0f} over half of the run; {most:,} are allowed")
    return found


def sampled(bundle, steps, kind, told, code=""):
    """The samples of one run by name. code: run first by its process."""
    with fast_folder() as folder:
        words = [str(bundle), folder, steps, kind]
        program = f"{code}\nimport long_run\nlong_run.main(*{words!r})"
        command = [sys.executable, "-W", "ignore", "-c", program]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {"PYTHONMALLOC": "malloc"}
        samples = {name: [] for name in ("steps", *MOST_MORE)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                for name, value in json.loads(line).items():
                    samples[name].append(value)
                told()
    if child.returncode or samples["steps"][-1] < steps:
        raise RuntimeError(f"the long run failed: exit {child.returncode}")
    return samples


def main(bundle, folder, steps, kind):
    """In a process of its own: print a sample in each line."""
    import logging

    logging.disable()
    path, every = Path(folder, "s.db"), max(1, steps // SAMPLES)
    for done in KINDS[kind](bundle, path, steps):
        if done % every == 0 or done == steps:
            print(json.dumps(_sample(path, done)), flush=True)
    if (counted := holds(path).steps) != steps:
        raise RuntimeError(f"{steps} steps were taken, {counted} were committed")


def _same_contexts(bundle, path, steps, contexts=RETURNING):
    """Steps with one runtime, within what a device keeps."""
    with opened(bundle, path) as runtime:
        calls = done = 0
        while done < steps:
            _one_step(runtime, calls, contexts)
            calls += 1
            # A frame like the source's is not learnt from: such a call is no step.
            if runtime.counters["steps"] > done:
                done += 1
                yield done


def _new_contexts(bundle, path, steps):
    """More contexts than a device keeps, and a bank with less room than they take."""
    context_files.BANK_BYTES = SMALL_BANK
    yield from _same_contexts(bundle, path, steps, contexts=None)


def _openings(bundle, path, steps):
    """One step, and everything closed and opened again."""
    for number in range(steps):
        with opened(bundle, path) as runtime:
            runtime.step(batch(number))
        yield number + 1


KINDS = {
    "steps, contexts that return": _same_contexts,
    "steps, ever new contexts": _new_contexts,
    "openings": _openings,
}


def _one_step(runtime, number, count):
    visit = number // VISIT
    place = np.random.default_rng(visit if count is None else visit % count)
    x, _ = stream_of([0, 1], 16, number)
    away = place.normal(size=4)
    x[:, 2:] += np.float32(AWAY) * (away / np.linalg.norm(away)).astype(np.float32)
    runtime.step(x)
    if number % LESSONS == 0:
        if knows_cat(runtime):
            runtime.forget_class("cat")
        else:
            runtime.learn(*lesson(number))
    if number % FLUSHES == 0:
        runtime.flush()


class _Allocated(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    names = "arena ordblks smblks hblks mapped usmblks fsmblks used fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in names.split())


def _in_use():
    """Bytes that are allocated, of Python's objects, too: see PYTHONMALLOC above."""
    allocated = ctypes.CDLL(None).mallinfo2
    allocated.restype = _Allocated
    found = allocated()
    return found.used + found.mapped


def _sample(path, steps):
    gc.collect()
    # Not by pathlib, which interns each name: their table grows in a jump then, by half a megabyte.
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        pages = int(statm.read().split()[1])
    folder, name = os.path.split(path)
    files = [file for file in os.scandir(folder) if file.name.startswith(name)]
    return {
        "steps": steps,
        "memory in use": _in_use(),
        "resident memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "file": sum(file.stat().st_size for file in files),
    }


def draw(samples, path):
    """Save the picture of all runs."""
    from matplotlib.figure import Figure

    titles = dict(
        zip(
            MOST_MORE,
            ("memory in use, MB", "resident memory, MB", "descriptors", "state, MB"),
            strict=True,
        )
    )
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 4), titles.items(), strict=True):
        for kind, values in samples.items():
            scale = 1 if name == "descriptors" else 1e-6
            share = 100 * np.array(values["steps"]) / values["steps"][-1]
            label = f"{values['steps'][-1]:,} {kind}"
            axes.plot(share, np.array(values[name]) * scale, label=label, linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("per cent of the run")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7, frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
