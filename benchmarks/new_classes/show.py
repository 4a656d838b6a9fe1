"""Tables and pictures of classes that are taught on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.new_classes.outcomes import Figure, Group, better, in_the_end
from benchmarks.new_classes.running import ADAPTED, OURS, STILL, UNTAUGHT

Table = tuple[list[str], list[list[str]]]
SPEECH = "speech, unseen speakers"
GOAL_SHOTS, LEAD, MAY_LOSE = 5, 3.0, 1.0  # labelled frames, and points
MOST_BYTES = 250_000
NOTHING = "–"
DRAWN = {
    OURS: ("#d1495b", "-"),
    f"{OURS}, prototypes alone": ("#e9a3ac", "-"),
    "NCM, cosine": ("#3a7ebf", "-"),
    "LDA": ("#4c956c", "-"),
    f"LDA{ADAPTED}": ("#4c956c", ":"),
    "fine-tuned classifier": ("#9a9a9a", "-"),
}
MEANS = ("NCM, cosine", "NCM, Euclid")
FIGURES: dict[str, Figure] = {
    "before": lambda found: found.old[0],
    "old": lambda found: found.old[-1],
    "apart": lambda found: found.old_apart,
    "new": lambda found: found.new[-1],
}


def accuracy_table(group: Group) -> Table:
    """A row a method, in per cent, after all classes were taught."""
    rows = []
    for method in group.by_method:
        cells = [f"{group.by_seed(method, figure).mean():.1f}" for figure in FIGURES.values()]
        every = group.by_seed(method, in_the_end)
        rows.append([method, *cells, with_spread(every)])
    return ["method", *FIGURES, "all"], rows


def with_spread(values: NDArray[np.float64]) -> str:
    """Mean and standard deviation over seeds."""
    spread = f"±{values.std():.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def subject_table(group: Group) -> Table:
    """Accuracy on all classes in the end of each subject, mean over seeds."""
    methods = [OURS, better(group, MEANS), "LDA", f"LDA{ADAPTED}"]
    found = {method: group.by_subject(method, in_the_end) for method in methods}
    rows = [
        [subject, *(f"{found[method][subject]:.1f}" for method in methods)]
        for subject in found[OURS]
    ]
    return ["device", *methods], rows


def goal_table(groups: Sequence[Group], blocks: Sequence[Mapping[str, Any]]) -> Table:
    """What was asked for and what came out."""
    rows = []
    for group in groups:
        if (group.name, group.shots) == (SPEECH, GOAL_SHOTS):
            rows += _leads(group) + _losses(group)
    for held in blocks:
        size = held["prototypes"]
        title = f"100 × 512, {held['own']} of the model"
        rows.append([title, f"{size / 1000:.1f} kB", "250", verdict(size <= MOST_BYTES)])
    return ["goal", "found", "asked", ""], rows


def _leads(group: Group) -> list[list[str]]:
    """Above peers on the frozen model's features as was asked, and above the same on ours."""
    ours, rows = group.by_seed(OURS, in_the_end), []
    for peer in (better(group, MEANS), "LDA", f"LDA{ADAPTED}"):
        less = ours - group.by_seed(peer, in_the_end)
        asked = ["", ""] if peer.endswith(ADAPTED) else [f"+{LEAD:g}", verdict(less.mean() >= LEAD)]
        rows.append([f"above {peer}", with_spread(less), *asked])
    return rows


def _losses(group: Group) -> list[list[str]]:
    before = group.by_seed(OURS, FIGURES["before"])
    lost = {
        "old lose, among all": before - group.by_seed(OURS, FIGURES["old"]),
        "old lose, among old": before - group.by_seed(OURS, FIGURES["apart"]),
    }
    if UNTAUGHT in group.by_method:
        untaught = group.by_seed(UNTAUGHT, FIGURES["apart"])
        lost |= {
            "old lose, among all, beside a device not taught": untaught
            - group.by_seed(OURS, FIGURES["old"]),
            "old lose, among old, beside a device not taught": untaught
            - group.by_seed(OURS, FIGURES["apart"]),
        }
    return [
        [title, with_spread(found), f"{MAY_LOSE:g}", verdict(found.mean() <= MAY_LOSE)]
        for title, found in lost.items()
    ]


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "missed"


def loss_table(groups: Sequence[Group]) -> Table:
    """What own classes lose: before, among all, apart, and of a device that was not taught."""
    rows = []
    for group in groups:
        for method in (OURS, STILL):
            if method in group.by_method:
                before, among, apart = (
                    float(group.by_seed(method, FIGURES[name]).mean())
                    for name in ("before", "old", "apart")
                )
                untaught = NOTHING
                if method == OURS and UNTAUGHT in group.by_method:
                    untaught = f"{group.by_seed(UNTAUGHT, FIGURES['apart']).mean():.1f}"
                figures = (before, among, apart, before - among, before - apart)
                title = f"{short(group.name)}, {group.shots}{', no steps' * (method == STILL)}"
                rows.append([title, *(f"{value:.1f}" for value in figures), untaught])
    columns = ["labelled", "before", "among all", "apart", "lost", "lost apart", "untaught"]
    return columns, rows


def difference_table(groups: Sequence[Group]) -> Table:
    """Ours less peers and variants of ours: accuracy on all classes in the end, in points."""
    every = dict.fromkeys(name for group in groups for name in group.by_method if name != OURS)
    rows = []
    for name in every:
        cells = []
        for group in groups:
            if name not in group.by_method:
                cells.append(NOTHING)
                continue
            less = group.by_seed(OURS, in_the_end) - group.by_seed(name, in_the_end)
            cells.append(f"{less.mean():+.1f}")
        rows.append([name, *cells])
    return ["EdgeMem less", *(f"{short(group.name)}, {group.shots}" for group in groups)], rows


def short(name: str) -> str:
    """A group in one word."""
    return name.replace(",", "").split()[0]


def cost_table(costs: Sequence[Mapping[str, Any]]) -> Table:
    """Milliseconds and bytes of a class, a row for as many labelled frames."""
    rows = [
        [
            f"{short(cost['group'])}, {cost['shots']}",
            f"{cost['milliseconds']:.1f}",
            f"{cost['milliseconds'] / cost['shots']:.1f}",
            f"{cost['first']:.0f}",
            f"{cost['graph']:.1f}",
            f"{cost['row']}",
            f"{cost['written'] / 1000:.0f}",
            f"{cost['grown'] / 1000:.1f}",
        ]
        for cost in costs
    ]
    columns = ["labelled", "ms", "a frame", "first", "graph", "bytes", "written", "grown"]
    return columns, rows


def block_table(blocks: Sequence[Mapping[str, Any]]) -> Table:
    """Bytes of blocks with room for a hundred classes of 512 features."""
    rows = [
        [f"{held['capacity']}", f"{held['own']}", f"{held['row']}", f"{held['prototypes']:,}",
         f"{held['all']:,}"]
        for held in blocks
    ]  # fmt: skip
    return [
        "classes",
        "the model's own",
        "bytes a class",
        "bytes of prototypes",
        "whole block",
    ], rows


def as_markdown(held: Table) -> str:
    """A table of a page."""
    columns, rows = held
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def picture(group: Group) -> str:
    """Its file's name."""
    return f"class-incremental-device-{short(group.name)}-{group.shots}.png"


def draw(group: Group, path: Path) -> None:
    """Accuracy on old, new and all classes by the number of classes taught."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(11, 4.4), layout="constrained")
    titles = {"old": "the model's own classes", "new": "taught classes", "all": "all known classes"}
    taught = np.arange(len(group.course(OURS, "all")))
    panels = canvas.subplots(1, 3, sharex=True, sharey=True)
    for axes, (what, title) in zip(panels, titles.items(), strict=True):
        for method, (colour, line) in DRAWN.items():
            if method in group.by_method:
                course = group.course(method, what)
                axes.plot(
                    taught[-len(course) :], course, line, color=colour, label=method,
                    marker="o", markersize=3, linewidth=2.6 if method == OURS else 1.4,
                )  # fmt: skip
        axes.set(title=title, xlabel="classes taught", ylim=(0, 100), xticks=taught)
        axes.grid(color="0.92")
    panels[0].set_ylabel("accuracy (%)")
    handles, names = panels[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    frames = "1 labelled frame" if group.shots == 1 else f"{group.shots} labelled frames"
    canvas.suptitle(f"{group.name[:1].upper()}{group.name[1:]}: {frames} of each new class")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=80)
