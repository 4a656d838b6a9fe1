"""New classes that are taught on a device: EdgeMem beside class means, LDA and fine-tuning.

A model knows half of ten digits, spoken or written, and is taught the others one by one from a few
labelled frames, with unlabelled ones in between. One command measures all that the page says.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))  # of build_demo
import torch

from benchmarks.adaptation.protocols import SPEAKERS
from benchmarks.new_classes.cost import lesson_cost, wide_blocks
from benchmarks.new_classes.courses import LABELLED, course
from benchmarks.new_classes.kept import kept
from benchmarks.new_classes.measures import Accuracies
from benchmarks.new_classes.outcomes import Outcome, grouped
from benchmarks.new_classes.page import PICTURES, page, tables
from benchmarks.new_classes.running import OURS, WAYS, Peers, Way, run_ours
from benchmarks.new_classes.show import SPEECH, draw, picture
from benchmarks.new_classes.subjects import Subject, images, speaker
from benchmarks.shared.cifar import data_folder
from benchmarks.shared.report import save_json, setting, setting_text, whole
from edgemem.cli.show import percent, print_table, progress
from edgemem.errors import EdgeMemError

PAGE = "class-incremental-device.md"
CONTEXTS = ("clear", "fog", "noise")
CLEAR_DIGITS, SHIFTED_DIGITS = "clear digits", "shifted digits, fog and noise"
COMPARED = 5  # labelled frames at which all ways of ours run; the first of them always does
QUICK: dict[str, Any] = {"speakers": 2, "seeds": 1, "shots": [5], "ways": [OURS]}
FULL: dict[str, Any] = {"speakers": len(SPEAKERS), "seeds": 3, "shots": [1, 5, 20], "ways": [*WAYS]}
NO_SPEECH = "no speech data: set EDGEMEM_DATA to a folder with fsdd/; digits alone"


def subjects(options: argparse.Namespace) -> list[tuple[str, Callable[[], Subject]]]:
    """Makers by group."""
    data = data_folder()
    found: list[tuple[str, Callable[[], Subject]]] = []
    if data is None:
        print(NO_SPEECH, file=sys.stderr)
    else:
        for number, name in enumerate(SPEAKERS[: options.speakers]):
            found.append((SPEECH, lambda k=number, n=name: speaker(data, k, n)))
    for context in CONTEXTS[: 1 if options.quick else None]:
        group = CLEAR_DIGITS if context == CONTEXTS[0] else SHIFTED_DIGITS
        found.append((group, lambda c=context: images([c])[0]))
    return found


def run_all(options: argparse.Namespace) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """Every method on every course, and what lessons of ours cost."""
    outcomes: list[Outcome] = []
    costs: list[dict[str, Any]] = []
    priced: set[str | Path] = set()  # one subject of a group, and every network once
    makers = subjects(options)
    with progress("courses") as bar:
        total = len(makers) * options.seeds * len(options.shots)
        task = bar.add_task("runs", total=total, note="")
        for group, make in makers:
            subject = make()
            peers = cache(partial(Peers, subject))  # made when a run is not kept
            for seed, shots in product(range(options.seeds), options.shots):
                found = run_course(subject, peers, seed, shots, options.ways)
                outcomes += [Outcome(group, subject.name, seed, shots, *one) for one in found]
                note = f"{subject.name}, {shots}, seed {seed}: {percent(found[0][2].all[-1])}"
                bar.update(task, advance=1, note=note)
            if not priced & {group, subject.bundle}:
                costs += [lesson_cost(group, subject, shots) for shots in options.shots]
            priced |= {group, subject.bundle}
    order = {name: number for number, name in enumerate(dict.fromkeys(g for g, _ in makers))}
    outcomes.sort(key=lambda one: (order[one.group], one.shots))
    return outcomes, costs


def run_course(
    subject: Subject, peers: Callable[[], Peers], seed: int, shots: int, names: Sequence[str]
) -> list[tuple[str, str, Accuracies]]:
    """Method, its setting and accuracies of all on one course, ours first."""
    made = course(subject.labels, subject.own, subject.new, subject.test, seed)
    what, found = [subject.name, subject.bundle.name, seed, shots], []
    for name in names if shots == COMPARED else names[:1]:
        way = WAYS[name]

        def teach(way: Way = way) -> list[dict[str, Any]]:
            return [asdict(one) for one in run_ours(subject, made, shots, way)]

        figures, _ = kept([*what, asdict(way)], teach, ours=True)
        found.append((name, "", Accuracies(**figures)))

    def all_peers() -> list[tuple[str, str, dict[str, Any]]]:
        return [(*names, asdict(one)) for *names, one in peers().run(made, shots)]

    for method, chosen, figures in kept(what, all_peers, ours=False):
        found.append((method, chosen, Accuracies(**figures)))
    return found


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = argparse.ArgumentParser(prog="benchmarks.new_classes", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("--quick", action="store_true", help="two speakers, one seed, five frames, one way of ours")
    add("--speakers", type=whole, help="how many of the six; default all")
    add("--seeds", type=whole, help="default 3")
    add("--shots", type=whole, nargs="+", help="labelled frames of each class; default 1 5 20")
    add("--ways", nargs="+", metavar="NAME", choices=WAYS, help="of ours; default all")
    add("--json", type=Path, metavar="PATH", help="write the figures there too")
    add("--out", type=Path, default=Path("results"), metavar="FOLDER",
        help="of the page and its pictures; default results")  # fmt: skip
    options = parser.parse_args(arguments)
    options.words = sys.argv[1:] if arguments is None else arguments
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if max(options.shots) > LABELLED:
        parser.error(
            f"--shots {max(options.shots)}: there are {LABELLED} labelled frames of a class"
        )
    options.ways = [*dict.fromkeys([OURS, *options.ways])]  # all tables compare with it
    return options


def report(
    options: argparse.Namespace,
    outcomes: list[Outcome],
    costs: list[dict[str, Any]],
    blocks: list[dict[str, Any]],
) -> None:
    """Tables, pictures, the page and the figures as a file."""
    groups = grouped(outcomes)
    for title, table in tables(groups, costs, blocks).items():
        print_table(title, *table)
    about = setting(**{name: getattr(options, name) for name in (*FULL, "quick")})
    seeds = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    text = setting_text(about, f"{options.speakers} speakers, {seeds}, batch 16, one thread")
    print(text)
    for group in groups:
        draw(group, options.out / PICTURES / picture(group))
    command = f"python -m benchmarks.new_classes {shlex.join(options.words)}".strip()
    (options.out / PAGE).write_text(page(groups, costs, blocks, text, command))
    found = {
        "benchmark": "new_classes", "setting": about, "costs": costs, "blocks": blocks,
        "outcomes": [one.as_dict() for one in outcomes],
    }  # fmt: skip
    save_json(found, Path("results/class-incremental-device.json"), options.json)


def main() -> None:
    """Measure, print, save."""
    options = read_options()
    torch.set_num_threads(1)  # batches of 16: more threads only wait for one another
    try:
        outcomes, costs = run_all(options)
        report(options, outcomes, costs, wide_blocks())
    except (EdgeMemError, OSError) as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
