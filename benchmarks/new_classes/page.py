"""The page that a run of the benchmark of devices writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.new_classes.courses import MET
from benchmarks.new_classes.outcomes import Group
from benchmarks.new_classes.peers import EPOCHS
from benchmarks.new_classes.show import (
    GOAL_SHOTS,
    SPEECH,
    Table,
    accuracy_table,
    as_markdown,
    block_table,
    cost_table,
    difference_table,
    goal_table,
    loss_table,
    picture,
    subject_table,
)
from benchmarks.new_classes.subjects import TEST_IMAGES, TEST_TAKES

PICTURES = "results"
INTRODUCTION = f"""# New classes on a device: the tables

Written by `{{command}}`; do not edit. What they say is in
[class-incremental.md](class-incremental.md).

{{about}}

*Speech*: for each of six speakers of the free spoken digit dataset, a small 1-D network that was
trained on five digits of the other five speakers; the sixth is the user. *Digits*: a small network
that was trained on clear images of five of scikit-learn's digits, met clear, in fog, and in noise.
A seed draws the order in which the other five digits are taught, which of their recordings are
labelled, and which the device meets when; the network of a subject is always the same. Before each
new class the device meets {MET} unlabelled frames of the classes that it knows by then, and `step`
adapts to them; then `learn` gets all labelled frames of the class at once. The test part,
{TEST_TAKES} recordings (or {TEST_IMAGES} images) of each of the ten digits, takes part in nothing
else. It is answered after every class in the same order in batches of 16, among the classes known
by then; frames of classes that are not known yet are in these batches, and are not counted.

Columns, in per cent, means over subjects and {{seeds}}: *before*, the model's own classes before
any was taught (EdgeMem then reads the classifier alone); *old*, the same frames in the end, among
all ten; *apart*, the same answers among the own classes only; *new*, the taught classes in the end,
among all ten; *all*, both, with the standard deviation over seeds.

Peers get the same labelled frames, and the source features of the model's own classes: *NCM*, the
nearest mean; *LDA*, one covariance within classes, the source's, which goes on with labelled frames
(Hayes & Kanan, CVPR workshops 2020); *fine-tuned classifier*, the model's own with a row for each
new class, {EPOCHS} epochs of SGD on the frames of that class, without replay. Their features are
the frozen model's. Rows ", our warm model" get the features of our warmed-up model with the
statistics of the batch instead, so that what warm-up and statistics gain is told from what is
learnt and how it is read. LDA has two shrinkages and fine-tuning three rates, of which the tables
have the best on the test part itself; ours has one setting everywhere. Of ours: *prototypes alone*
reads without the classifier; *no gradient* learns with `learn_rate` 0; *no unlabelled steps* is
opened with `adapt=False`; *strangers in the stream* meets all ten digits from the start; *nothing
taught* meets the same unlabelled frames without a lesson. These run at 5 labelled frames only.
"""
LOSSES = """## What old classes lose

Of the same frames of own classes, in per cent: *before* any class was taught, by the classifier
alone; in the end *among all* ten classes; and *apart*, the same answers among the own classes only.
*lost*: before less among all; *lost apart*: before less apart. The goal is at most one point. What
unlabelled steps gain meanwhile hides what teaching costs, so there are two more: the same without
steps, and *untaught*, the own classes of a device that met the same unlabelled frames and was
taught nothing.
"""
COSTS = """## What a class costs

Of the first subject of each group and its first course. *ms*: one call of `learn` with all frames
of a class, the commit to the state file included, one thread; the fastest of three rounds, for
others use the machine, too; median over lessons but the first. *a frame*, that by labelled frames;
*first*, the first lesson after opening, in which the graph, optimised before, is loaded; *graph*,
one run of it, which takes up to four labelled frames. *bytes*: the rows of the block that are a
class's own. *written*: kB to the state file in one lesson (whole commits); *grown*: kB of the file
and its log from the first lesson to the fifth.
"""
BLOCKS = """## A hundred classes of 512 features

From bundles that are exported for it, float32. Beside the rows of every class there is one row for
each of the model's own, for what is taken for it without labels; asked were 250 kB.
"""


def page(
    groups: Sequence[Group],
    costs: Sequence[Mapping[str, Any]],
    blocks: Sequence[Mapping[str, Any]],
    about: str,
    command: str,
) -> str:
    """All tables and pictures."""
    seeds = len(groups[0].by_seed(next(iter(groups[0].by_method)), lambda _: 0.0))
    told = "1 seed" if seeds == 1 else f"{seeds} seeds"
    parts = [
        INTRODUCTION.format(command=command, about=about, seeds=told),
        "## Goals\n",
        f"At {GOAL_SHOTS} labelled frames a class, speech. Leads and losses in points.\n",
        as_markdown(goal_table(groups, blocks)),
        "EdgeMem less each, on all classes in the end, in points, by group and labelled frames:\n",
        as_markdown(difference_table(groups)),
    ]
    for group in groups:
        parts += _section(group)
    parts += [LOSSES, as_markdown(loss_table(groups))]
    parts += [COSTS, as_markdown(cost_table(costs)), BLOCKS, as_markdown(block_table(blocks))]
    return "\n".join(parts)


def _section(group: Group) -> list[str]:
    frames = "frame" if group.shots == 1 else "frames"
    parts = [
        f"## {group.name[:1].upper()}{group.name[1:]}: {group.shots} labelled {frames} a class\n",
        as_markdown(accuracy_table(group)),
    ]
    if group.settings:
        chosen = "; ".join(f"{name}: {setting}" for name, setting in group.settings.items())
        parts.append(f"Better settings of peers: {chosen}.\n")
    if (group.name, group.shots) == (SPEECH, GOAL_SHOTS):
        parts += ["Each speaker, all classes:\n", as_markdown(subject_table(group))]
    parts.append(f"![Accuracy by classes taught]({PICTURES}/{picture(group)})\n")
    return parts


def tables(
    groups: Sequence[Group], costs: Sequence[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]]
) -> dict[str, Table]:
    """Those that a run prints, by title."""
    accuracy = {
        f"{group.name}, {group.shots} labelled a class: accuracy, %": accuracy_table(group)
        for group in groups
    }
    return {
        **accuracy,
        "What old classes lose: accuracy, %": loss_table(groups),
        "What a class costs": cost_table(costs),
        "A hundred classes of 512 features": block_table(blocks),
        "Goals at 5 labelled frames a class, speech; points": goal_table(groups, blocks),
    }
