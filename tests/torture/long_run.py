"""Very many steps: memory, descriptors and the file of the state must not grow with them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from counts import Row
from device import holds, knows_cat, lesson
from teachable import stream_of

import edgemem
from edgemem.runtime import context_store

# Contexts that come back, within what a device keeps; or ever new ones, more than it keeps, and a
# bank with less room than they take.
KINDS = {"contexts that return": 8, "ever new contexts": None}
SMALL_BANK = 16_000  # bytes
VISIT, LESSONS, FLUSHES, SITTING = 20, 500, 200, 10_000  # steps between two of them
SAMPLES = 240
AWAY = 7.0  # distance of a context from the source
# How much each may differ between the second quarter of a run and the last: 1 MiB is 20 bytes a
# step in 100,000 steps.
MOST_MORE = {"memory": 1 << 20, "descriptors": 0, "file": 1 << 16}


def run(bundle, steps, told):
    """A run for each kind of contexts: its row, and its samples by name. told: called for each
    sample."""
    rows, samples = [], {}
    for kind in KINDS:
        row = Row(f"steps, {kind}", old=None, new=None, lost=None)
        rows.append(row)
        if not Path("/proc/self/statm").exists():
            row.skipped = "memory and descriptors are counted by Linux alone"
            continue
        samples[kind] = _sampled(bundle, steps, kind, told)
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


def _sampled(bundle, steps, kind, told):
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        words = [str(bundle), folder, steps, kind]
        command = [sys.executable, "-W", "ignore", "-c", f"import long_run; long_run.main(*{words!r})"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
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
    count = KINDS[kind]
    if count is None:
        context_store.BANK_BYTES = SMALL_BANK
    path, calls, done, every = Path(folder, "s.db"), 0, 0, max(1, steps // SAMPLES)
    while done < steps:
        sitting = min(steps, done + min(SITTING, max(1, steps // 10)))
        with edgemem.open(
            bundle, path, threads=1, provider="cpu", hyper_parameters={"learning_rate": 0.1}
        ) as runtime:
            while done < sitting:
                _one_step(runtime, calls, count)
                calls += 1
                # A frame like the source's is not learnt from: such a call is no step.
                if runtime.counters["steps"] > done:
                    done = runtime.counters["steps"]
                    if done % every == 0 or done == steps:
                        print(json.dumps(_sample(path, done)), flush=True)
        if (counted := holds(path).steps) != done:
            raise RuntimeError(f"{done} steps were taken, {counted} were committed")


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


def _sample(path, steps):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    return {
        "steps": steps,
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "file": sum(file.stat().st_size for file in files),
    }


def draw(samples, path):
    """Save the picture of all runs."""
    from matplotlib.figure import Figure

    titles = {"memory": "resident memory, MB", "descriptors": "descriptors", "file": "state, MB"}
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for kind, values in samples.items():
            scale = 1 if name == "descriptors" else 1e-6
            axes.plot(values["steps"], np.array(values[name]) * scale, label=kind, linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("steps")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
