"""Torture: kills, power cuts, interrupts, disks that refuse, very many steps. Prints a table.

    python tests/torture/run.py --quick
    python tests/torture/run.py --only power,kills --seed 7

The same seed makes the same faults; of kills it makes the same calls, killed at about the same
moments. Files that were judged wrong are in results/torture, as the fault left them. Exit 1 if
anything was.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "helpers")]

import interrupts
import kills
import long_run
import power_cuts
import refusals
from counts import COLUMNS
from teachable import write_bundle

from edgemem.cli.show import line_of, print_table, progress

# How many: kills in all; changes after which the power is cut, six times each; moments at most in
# each interrupted call; refused writes and syncs at most in each call; steps.
FULL = SimpleNamespace(kills=1000, power=1000, interrupts=10**6, refusals=10**6, steps=100_000)
QUICK = SimpleNamespace(kills=60, power=60, interrupts=25, refusals=8, steps=6_000)


def kinds(bundle, seed, size):
    """Each kind of torture: a function of what is called after each case, giving rows."""
    return {
        "kills": lambda told: (kills.run(bundle, seed, size.kills, told), {}),
        "power": lambda told: (power_cuts.run(bundle, seed, size.power, told), {}),
        "interrupts": lambda told: (interrupts.run(bundle, seed, size.interrupts, told), {}),
        "refusals": lambda told: (refusals.run(bundle, seed, size.refusals, told), {}),
        "steps": lambda told: long_run.run(bundle, size.steps, told),
    }


def main():
    """Run what is asked for, show the table, and say by the exit code whether all was right."""
    options = _options()
    logging.disable()
    sys.unraisablehook = lambda _: None  # an interrupt in a finaliser is one of the cases
    rows, seconds, samples = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder, progress("cases") as bar:
        bundle = write_bundle(Path(folder, "t.edgemem"))
        todo = kinds(bundle, options.seed, QUICK if options.quick else FULL)
        for name in options.only or todo:
            task, start = bar.add_task(name, total=None, note=""), time.monotonic()
            found, drawn = todo[name](lambda task=task: bar.advance(task))
            bar.update(task, total=bar.tasks[task].completed or 1)  # known at the end alone
            seconds[name] = round(time.monotonic() - start)
            rows, samples = [*rows, *found], samples | drawn
            for row in found:
                _tell(bar, row)
    failures = sum(len(row.failures) for row in rows)
    title = f"Torture, seed {options.seed}, {date.today().isoformat()}, {sum(seconds.values())} s"
    print_table(title, COLUMNS, [row.cells() for row in rows])
    _save(options, rows, seconds, samples)
    return 1 if failures else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn by chance")
    names = tuple(kinds(None, 0, FULL))
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help=f"some of {', '.join(names)}, with commas between",
    )
    parser.add_argument("--json", type=Path, help="file for the table and every failure")
    parser.add_argument("--plot", type=Path, help="file for the picture of the long runs")
    options = parser.parse_args()
    if strange := set(options.only or ()).difference(names):
        parser.error(f"--only: {', '.join(sorted(strange))} is none of {', '.join(names)}")
    return options


def _tell(bar, row):
    if row.skipped:
        line_of(bar, f"SKIPPED, nothing was checked: {row.fault}: {row.skipped}")
    for failure in row.failures[:5]:
        line_of(bar, f"FAILED {row.fault}: {failure}")
    if len(row.failures) > 5:
        line_of(bar, f"… and {len(row.failures) - 5} more; --json has all of them")


def _save(options, rows, seconds, samples):
    if options.json is not None:
        found = {"seed": options.seed, "date": date.today().isoformat(), "seconds": seconds}
        found["rows"] = [row.as_dict() for row in rows]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot is not None and samples:
        long_run.draw(samples, options.plot)


if __name__ == "__main__":
    sys.exit(main())
