"""Whether calls became slower since a commit: processor time of both versions, in turn.

Both are taken from git and laid out as they are installed. In each round processes of the one and
of the other take turns, and each runs the demo that its own commit ships, with one thread and a
state file. Ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.report import command_line, save_json, setting, setting_text, whole
from edgemem.cli.show import print_table, progress

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("two_commits_worker.py")
PAGE = "two-commits.md"
START, STARTS = "import and open", 5  # in a round
COLUMNS = ("processor time of", "before ms", "now ms", "ratio", "lowest, highest", "of least")
Measured = dict[str, Any]


def commit(name: str) -> dict[str, str]:
    """Parser of a commit: its hash, date and subject."""
    words = ["git", "-C", str(ROOT), "log", "-1", "--format=%h%n%cs%n%s", "--end-of-options", name]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise argparse.ArgumentTypeError(done.stderr.splitlines()[0])
    short, day, subject = done.stdout.splitlines()
    return {"commit": short, "date": day, "subject": subject}


def lay_out(version: str, folder: Path) -> Path:
    """The packages of a commit as they are installed; returns the folder to import from."""
    words = ["git", "-C", str(ROOT), "archive", "--format=tar", version]
    archive = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as held:
        held.extractall(folder, filter="data")
    setup = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, place in setup["package-dir"].items():
        shutil.move(folder / place, folder / package.replace(".", "/"))
    return folder


def measure(site: Path, kind: str) -> Any:
    """What a fresh process of one version measured; kind: see the worker."""
    # Byte code is kept, as it is wherever a package was installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        words = [sys.executable, "-P", str(WORKER), folder, kind]
        done = subprocess.run(
            words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )
    return json.loads(done.stdout)


def one_round(sites: dict[str, Path]) -> dict[str, Measured]:
    """Starts in turn, of which the median counts, then calls in turn; by version."""
    starts = [{name: measure(site, "start") for name, site in sites.items()} for _ in range(STARTS)]
    found = {name: measure(site, "calls") for name, site in sites.items()}
    for name, one in found.items():
        one["ms"] = {START: float(np.median([every[name] for every in starts]))} | one["ms"]
    return found


def compare(before: list[Measured], now: list[Measured]) -> dict[str, dict[str, float]]:
    """Medians in milliseconds, and how many times as long a call takes now, of every call."""
    found = {}
    for name in before[0]["ms"]:
        old, new = (np.array([one["ms"][name] for one in side]) for side in (before, now))
        ratios = new / old
        found[name] = {
            "before": float(np.median(old)),
            "now": float(np.median(new)),
            "ratio": float(np.median(ratios)),
            "lowest": float(ratios.min()),
            "highest": float(ratios.max()),
            "ratio of least": float(new.min() / old.min()),
        }
    return found


def rows_of(found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """The table."""
    return [
        (name, f"{row['before']:.2f}", f"{row['now']:.2f}", f"{row['ratio']:.2f}",
         f"{row['lowest']:.2f}, {row['highest']:.2f}", f"{row['ratio of least']:.2f}")
        for name, row in found.items()
    ]  # fmt: skip


def stream_text(before: Measured, now: Measured) -> str:
    """What both versions made of the stream, for times of unlike work say little."""
    other = int(np.sum(np.array(before["labels"]) != np.array(now["labels"])))
    return (
        f"Of the stream's {len(now['labels'])} frames the version before gets {before['wrong']} "
        f"wrong in {before['steps']} steps, this one {now['wrong']} in {now['steps']}; "
        f"labels that differ: {other}."
    )


def page(document: dict[str, Any], text: str) -> str:
    """The table as a page."""
    commits = document["commits"]
    named = "\n".join(
        f"- {name}: `{of['commit']}` ({of['date']}), {of['subject']}"
        for name, of in commits.items()
    )
    rows = [COLUMNS, ("---",) * len(COLUMNS), *rows_of(document["results"])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    command = f"make bench-commits BEFORE={commits['before']['commit']}"
    return f"""# The same calls, before and now

Written by `{command}`; do not edit.

{text}

{named}

{table}

Medians over rounds. *Ratio*: now / before, taken round by round; beside it the lowest and the
highest of a round. *Of least*: the least time of all rounds against the least before, which other
work on the machine disturbs less. *Import and open*: from the start of a process, the median of
{STARTS} in a round. One frame: the mean over frames, of which every sixteenth makes a step.

{document["stream"]}
"""


def main() -> None:
    """Measure in turn, print, save."""
    parser = command_line(__doc__, "benchmarks.cost.two_commits HEAD~10 --rounds 7")
    add = parser.add_argument
    add("before", type=commit, metavar="COMMIT", help="the version to compare with")
    add("--now", type=commit, default="HEAD", metavar="COMMIT", help="default HEAD")
    add("--rounds", type=whole, default=9, help="default 9")
    options = parser.parse_args()
    commits = {"before": options.before, "now": options.now}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text, progress("rounds") as bar:
        sites = {name: lay_out(of["commit"], Path(text, name)) for name, of in commits.items()}
        task = bar.add_task("versions", total=options.rounds + 1, note="")
        rounds = []
        for _ in range(options.rounds + 1):
            rounds.append(one_round(sites))
            bar.update(task, advance=1)
    before, now = ([one[name] for one in rounds[1:]] for name in sites)  # the first fills caches
    load = os.getloadavg()[2]  # of a quarter of an hour; one of it is this run
    about = setting(threads=1, rounds=options.rounds, load=load)
    document = {
        "benchmark": "two_commits",
        "setting": about,
        "commits": commits,
        "results": compare(before, now),
        "stream": stream_text(before[0], now[0]),
    }
    print_table("now beside before", COLUMNS, rows_of(document["results"]))
    said = f"1 thread, {options.rounds} rounds in turn; load average {load:.1f}, 1 of it this run"
    print(textwrap.fill(document["stream"], 80), setting_text(about, said), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / PAGE).write_text(page(document, setting_text(about, said)))
    save_json(document, Path("results/two_commits.json"), options.json)
    print(f"Page: {options.out / PAGE}")


if __name__ == "__main__":
    main()
