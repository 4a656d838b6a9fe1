"""Runs cases in a process of its own, for a file may end the process.

Jobs come as lines of JSON: the name of a format, and seeds or cases. Of every case two lines go
out: the case before it is run, and then what it led to.
"""

import json
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

from fuzzing.case import FAILED, OTHER, REFUSED, SAME, TOLD, Case
from fuzzing.formats import FORMATS

from edgemem.errors import EdgeMemError

# Seconds of work, and of work and waiting: a signal ends the process then, even in foreign code.
LONGEST_CASE, LONGEST_WAIT = 30, 300
GO_ON = 4  # what one in so many has become is used further
MOST_MEMORY = 512 << 20  # bytes more than before the first case
ADDRESSES = 8 << 30  # bytes of address space more than then: what asks for more is refused
HERE = str(Path(__file__).parent)


class Worker:
    """Formats that were asked for, each with what it makes of intact files."""

    def __init__(self, folder):
        self._folder, self._formats, self._expected = folder, {}, {}
        self._unseen = []
        sys.unraisablehook = lambda found: self._unseen.append(found.exc_value)
        threading.excepthook = lambda found: self._unseen.append(found.exc_value)

    def format(self, name):
        if name not in self._formats:
            folder = self._folder / name
            folder.mkdir()
            self._formats[name] = FORMATS[name](folder)
        return self._formats[name]

    def expected(self, name, base):
        """What comes of an intact file."""
        if (name, base) not in self._expected:
            made = self.format(name)
            made.build(Case([], base=base))
            found = made.use()
            if found.told or found.wrong:
                raise AssertionError(f"{name}: the intact file is not: {found}")
            self._expected[name, base] = found
        return self._expected[name, base]

    def run(self, name, case):
        """Outcome of a case, and what went wrong in words."""
        made, expected = self.format(name), self.expected(name, case.base)
        made.build(case)
        try:
            found = made.use()
            outcome = _judged(found, expected, case)
        except EdgeMemError:
            outcome = REFUSED, ""
        except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
            outcome = FAILED, _where(error)
        if outcome[0] in (TOLD, OTHER) and int(found.digest, 16) % GO_ON == 0:
            try:
                made.go_on()
            except BaseException as error:  # noqa: BLE001
                # Of a file that is told to be damaged, more may be found to be.
                if outcome[0] == OTHER or not isinstance(error, EdgeMemError):
                    outcome = FAILED, f"accepted, but then {_where(error)}"
        if self._unseen:
            outcome = FAILED, f"not raised: {_where(self._unseen[0])}"
            self._unseen.clear()
        return outcome


def _judged(found, expected, case):
    if found.wrong:
        return FAILED, found.wrong
    if found.digest == expected.digest:
        return SAME, ""
    if found.told:
        return TOLD, ""
    return (OTHER, "") if case.sealed else (FAILED, "accepted without a word, with other output")


def _where(error):
    """Kind and text of an error, and the last line of the project that it passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if HERE not in f.filename]
    own = [f for f in frames if "/edgemem/" in f.filename or "/runtime/" in f.filename]
    place = own[-1] if own else (frames[-1] if frames else None)
    at = (
        "fuzzer" if place is None else f"{'/'.join(Path(place.filename).parts[-2:])}:{place.lineno}"
    )
    return f"{at} {type(error).__name__}: {str(error)[:160]}"


def _limited():
    """Let the kernel refuse what would take the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        most = pages * resource.getpagesize() + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _peak():
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main():
    """Answer every line of standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the cases print is nobody's
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for end in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(end, signal.SIG_DFL)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # spares the disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        worker, before = Worker(Path(folder)), 0
        for line in sys.stdin:
            job = json.loads(line)
            made = worker.format(job["format"])
            if not before:
                _limited()
            before = before or _peak()
            print("ready", file=answers, flush=True)
            for seed in job["seeds"]:
                began = time.monotonic()
                case = Case(**seed) if isinstance(seed, dict) else made.case(seed)
                print(json.dumps(case.to_json()), file=answers, flush=True)
                signal.setitimer(signal.ITIMER_PROF, LONGEST_CASE)
                signal.alarm(LONGEST_WAIT)
                outcome, words = worker.run(job["format"], case)
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.alarm(0)
                grown = _peak() - before
                if grown > MOST_MEMORY:
                    outcome, words = FAILED, f"took {grown >> 20} MiB of memory"
                answer = [outcome, words, time.monotonic() - began]
                print(json.dumps(answer), file=answers, flush=True)
                if grown > MOST_MEMORY:
                    return  # the peak would hide the next one


if __name__ == "__main__":
    main()
