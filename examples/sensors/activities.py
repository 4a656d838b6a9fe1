"""Activity recognition that gets used to how the phone is worn.

Without arguments a small simulator moves: five activities, six ways to wear the phone, of which
only the first is as in training. Every answer is from before the update it leads to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from motion import PLACES, stream
from numpy.typing import NDArray
from readings import csv_windows
from rich.console import Console
from rich.progress import track

sys.path.append(str(Path(__file__).resolve().parents[1]))
from score import Score

import edgemem
from edgemem.stopping import stopping

HERE = Path(__file__).parent
EXAMPLES = """examples:
  python examples/sensors/activities.py
  python examples/sensors/activities.py --input walk.csv --metres --state wearer.db
"""
Window = tuple[str, str, NDArray[np.float32]]  # place, activity ("" = unknown), [3, 128]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, help="CSV file with t (s), x, y, z and maybe activity; or simulate")
    add("--metres", action="store_true", help="accelerations in the file are in m/s², not in g")
    add("--every", type=float, default=10, help="seconds between two windows of a file")
    add("--bundle", type=Path, default=HERE / "activities.edgemem")
    add("--state", type=Path, help="file to keep what is learnt in")
    add("--together", type=int, default=16, help="windows that are answered at once")
    add("--windows", type=int, default=96, help="simulated windows of a visit")
    add("--visits", type=int, default=3, help="simulated visits of each way to wear the phone")
    add("--bout", type=float, default=2, help="simulated windows of an activity, on average")
    add("--seed", type=int, default=1, help="of what is simulated")
    add("--out", type=Path, default=Path("results"), help="folder of the picture")
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def windows_of(options: argparse.Namespace) -> Iterable[Window]:
    """What `--input` asks for."""
    if min(options.windows, options.visits, options.bout, options.together) < 1:
        thing = "--windows, --visits, --bout and --together"
        raise edgemem.InputError(thing, "are too small", "Use 1 or more")
    if options.input is not None:
        name = options.input.stem
        windows = csv_windows(options.input, options.every, options.metres)
        return ((name, activity, window) for activity, window in windows)
    visits = list(PLACES) * options.visits
    moving = stream(visits, options.windows, options.seed, options.bout)
    return track(
        moving, "windows", len(visits) * options.windows,
        console=Console(stderr=True), transient=True, disable=options.json,
    )  # fmt: skip


def together(
    windows: Iterable[Window], count: int
) -> Iterator[tuple[str, list[str], NDArray[np.float32]]]:
    """Place, activities and windows [n, 3, 128]: a watch wakes up for up to `count` of them."""
    for place, visit in groupby(windows, key=lambda window: window[0]):
        while group := list(islice(visit, count)):
            yield place, [name for _, name, _ in group], np.stack([x for *_, x in group])


def follow(options: argparse.Namespace) -> tuple[Score, float, Counter[str]]:
    """Answer every window, and learn from it; score, milliseconds of a window, and the answers."""
    score, seconds, said = Score("windows"), 0.0, Counter[str]()
    with stopping() as stop, edgemem.open(options.bundle, options.state, threads=1) as runtime:
        labels = runtime.bundle.manifest.labels
        for place, activities, windows in together(windows_of(options), options.together):
            began = time.perf_counter()
            with stop.later():
                result = runtime.step(windows)
            seconds += time.perf_counter() - began
            truth = np.array([labels.index(name) if name in labels else -1 for name in activities])
            score.add(place, truth, runtime.predict(windows, frozen=True), result)
            said.update(labels[answer] for answer in result.labels)
    return score, 1000 * seconds / max(score.frames, 1), said


def main() -> int:
    """Exit code 2 for bad input, with one line that says what and why."""
    options = arguments()
    try:
        score, milliseconds, said = follow(options)
        title = "Five activities, the phone worn in other ways"
        picture = score.draw(options.out / "activities.png", title, window=50)
    except edgemem.EdgeMemError as error:
        print(f"activities.py: {error}", file=sys.stderr)
        return 2
    score.show(options.json, picture, milliseconds)
    if not options.json:
        print("Answers:", ", ".join(f"{name} {count}" for name, count in said.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
