"""Fuzzers of every file that EdgeMem reads: `python -m fuzzing`, or `make fuzz`.

A case is a format and a seed: from these follow the edits, and from the edits the damaged file.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from fuzzing.case import FAILED, OUTCOMES
from fuzzing.formats import FORMATS
from fuzzing.run import failures, jobs, run, table

from edgemem.cli.show import print_table, progress

FAILURES = Path("build/fuzz/failures.jsonl")
SHOWN = 20


def main():
    options = _options()
    formats = options.format or list(FORMATS)
    if options.seed is None:
        todo = list(jobs(options.cases, formats))
    else:
        todo = [(name, [options.seed]) for name in formats]
    total = sum(len(seeds) for _, seeds in todo)
    with progress("cases") as bar:
        task = bar.add_task("fuzz", total=total, note="")
        found = run(todo, options.workers, lambda done: bar.advance(task, done))
    columns = ("format", "cases", "seconds", *OUTCOMES)
    print_table("files that were altered, and what reading them led to", columns, table(found))
    failed = failures(found)
    _keep(failed)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(_figures(found), indent=1) + "\n")
    sys.exit(1 if failed else 0)


def _options():
    parser = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="repeatable")
    parser.add_argument("--seed", type=int, help="one case of each format, made again")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def _keep(failed):
    """Print the first failures, and write all beside the other things that are built."""
    for failure in failed[:SHOWN]:
        which = "of the corpus" if failure["seed"] is None else f"--seed {failure['seed']}"
        print(f"{failure['format']} {which}: {failure['why']}")
    if len(failed) > SHOWN:
        print(f"and {len(failed) - SHOWN} more")
    if failed:
        FAILURES.parent.mkdir(parents=True, exist_ok=True)
        FAILURES.write_text("".join(json.dumps(failure) + "\n" for failure in failed))
        print(f"{FAILURES}: every failure, with its edits")


def _figures(found):
    rows = {
        name: {
            "seconds": round(e.seconds, 1),
            **{outcome: e.outcomes[outcome] for outcome in OUTCOMES},
        }
        for name, e in found.items()
    }
    return {"formats": rows, FAILED: failures(found)}


if __name__ == "__main__":
    main()
