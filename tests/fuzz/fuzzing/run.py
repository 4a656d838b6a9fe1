"""Shares cases among worker processes, counts outcomes, and keeps what failed."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.case import FAILED, OUTCOMES
from fuzzing.formats import FORMATS

CORPUS = Path(__file__).with_name("corpus.jsonl")
JOB = 100  # cases that a worker gets at once
JOBS = 8  # of a format at least, so that no worker waits long for the other


@dataclass
class Found:
    """Outcomes and seconds of one format; failures as they are kept."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    failures: list = field(default_factory=list)

    @property
    def cases(self):
        return sum(self.outcomes.values())


def corpus():
    """Cases that once failed, by format."""
    found = {name: [] for name in FORMATS}
    for line in CORPUS.read_text().splitlines() if CORPUS.exists() else ():
        entry = json.loads(line)
        found[entry["format"]].append({n: entry[n] for n in ("edits", "sealed", "base")})
    return found


def jobs(cases, formats):
    """Name and seeds of every job: the corpus, then as many cases a format as its share says."""
    kept, shares = corpus(), sum(FORMATS[name].share for name in formats)
    for name in formats:
        if kept[name]:
            yield name, kept[name]
    for name in formats:
        count = max(1, round(cases * FORMATS[name].share / shares))
        step = max(1, min(JOB, count // JOBS))
        for start in range(0, count, step):
            yield name, list(range(start, min(start + step, count)))


def run(todo, workers, note=lambda done: None):
    """Run jobs in worker processes; what was found, by format. note: called after each case.

    Raises RuntimeError where cases could not be run.
    """
    waiting, found, lock = queue.Queue(), {}, threading.Lock()
    for job in todo:
        found.setdefault(job[0], Found())
        waiting.put(job)

    def count(name, seed, case, answer):
        outcome, words, seconds = answer
        with lock:
            entry = found[name]
            entry.outcomes[outcome] += 1
            entry.seconds += seconds
            if outcome == FAILED:
                number = seed if isinstance(seed, int) else None
                entry.failures.append({"format": name, "seed": number, "why": words, **case})
            note(1)

    broken = []

    def serve():
        try:
            _serve(waiting, count)
        except Exception as error:  # noqa: BLE001 - a thread would take it along to its end
            broken.append(error)

    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:  # cases that were not run have not passed
        raise broken[0]
    return found


def _serve(waiting, count):
    """Give jobs to one process, and to another when a case has ended it."""
    process = None
    try:
        while True:
            try:
                name, seeds = waiting.get_nowait()
            except queue.Empty:
                return
            while seeds:
                process = process or _Process()
                answered = process.job(name, seeds, count)
                seeds = seeds[answered:]
                if seeds or process.ended:
                    process.close()
                    process = None
    finally:
        if process is not None:
            process.close()


class _Process:
    """A worker."""

    def __init__(self):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzzing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def ended(self):
        return self._process.poll() is not None

    def job(self, name, seeds, count):
        """How many of the seeds were answered, the last perhaps by the end of the process."""
        self._process.stdin.write(json.dumps({"format": name, "seeds": seeds}) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name}: cannot begin: {self._said()}")
        for number, seed in enumerate(seeds):
            began = time.monotonic()
            case = json.loads(self._process.stdout.readline() or "{}")
            if line := self._process.stdout.readline():
                count(name, seed, case, json.loads(line))
                continue
            code = self._process.wait()
            if number and code == 0:  # it had taken too much memory, and said so
                return number
            words = f"the process ended ({code}) {self._said().splitlines()[-1:]}"[:300]
            count(name, seed, case, [FAILED, words, time.monotonic() - began])
            return number + 1
        return len(seeds)

    def _said(self):
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().strip()[-4000:]

    def close(self):
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def failures(found):
    return [failure for entry in found.values() for failure in entry.failures]


def table(found):
    """Rows of the table, text by text, with a sum at the end."""
    rows = [
        (name, f"{e.cases:,}", f"{e.seconds:.0f}", *(f"{e.outcomes[o]:,}" for o in OUTCOMES))
        for name, e in found.items()
    ]
    every = sum((e.outcomes for e in found.values()), Counter())
    seconds = sum(e.seconds for e in found.values())
    total = (
        "all",
        f"{sum(every.values()):,}",
        f"{seconds:.0f}",
        *(f"{every[o]:,}" for o in OUTCOMES),
    )
    return [*rows, total]
