"""The page that a run of the benchmark writes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.class_incremental.running import READINGS
from benchmarks.class_incremental.show import (
    PICTURES,
    Outcomes,
    Tried,
    as_markdown,
    goals,
    picture,
    readings,
    sweep_table,
    table,
)
from benchmarks.class_incremental.split import Setting

INTRODUCTION = """# New classes one task after another: the tables

Written by `{command}`; do not edit. What they say is in
[class-incremental.md](class-incremental.md).

{about}

{settings}

Every method starts from the same weights and gets the same images in the same order, with the same
augmentation (a crop moved by up to 4 pixels, and a flip), epochs and SGD (momentum 0.9, decay 1e-4,
a rate that falls to zero along half a cosine in every task). PRD and SupCon see two views of each
image; ER and DER join as many stored samples to each batch. Two readings of one run:
*task-incremental*, the best among the classes of the image's task; *class-incremental*, among all
classes seen so far. With one class a task the former is always right, and left out.

Columns, in per cent, means over {seeds} and standard deviations: *ACC*, mean accuracy on all tasks
in the end; *AIA*, mean over tasks of the mean accuracy on the tasks so far; forgetting in the three
published definitions, *F earlier best* (best before the last task less last; Chaudhry et al., ECCV
2018), *F best* (the last among the best; Mammoth, PyCIL) and *F learnt* (since right after
learning; Avalanche); *BWT* and *FWT*, backward and forward transfer (Lopez-Paz & Ranzato, NeurIPS
2017; FWT needs answers about classes not learnt yet, which only a head of fixed size gives).
*stores*: samples kept at most. *s*: processor seconds of learning. Joint training is one step over
all classes, as many epochs, so that only ACC says something.
"""
SWEEP = """## Numbers tried

On seed {seed}, which is in no other table, in the first setting: average accuracy at the numbers of
the other tables, and with one of them changed.
"""
GOALS = """## Goals

Above every peer without stored samples, and above ER with 200 samples in the task-incremental
reading, as the paper claims: difference of average accuracy in points.
"""


def page(
    settings: Sequence[tuple[Setting, Outcomes]],
    tried: Sequence[Tried],
    about: str,
    command: str,
    sweep_seed: int,
) -> str:
    """All tables and pictures."""
    count = max(len(runs) for _, outcomes in settings for runs in outcomes.values())
    parts = [
        INTRODUCTION.format(
            command=command,
            about=about,
            settings="\n".join(describe(setting) for setting, _ in settings),
            seeds="1 seed" if count == 1 else f"{count} seeds",
        ),
        GOALS,
        as_markdown(goals(settings)),
    ]
    for setting, outcomes in settings:
        for reading in readings(setting):
            parts.append(f"## {setting.name} classes, {READINGS[reading]}\n")
            parts.append(as_markdown(table(outcomes, reading)))
            parts.append(f"![Accuracy on tasks so far]({PICTURES}/{picture(setting, reading)})\n")
    if tried:
        parts += [SWEEP.format(seed=sweep_seed), as_markdown(sweep_table(tried))]
    return "\n".join(parts)


def describe(setting: Setting) -> str:
    """A setting in words."""
    stem = 4 if setting.pool else 2
    return (
        f"- *{setting.name}*: {setting.dataset}, {setting.train_per_class} training and "
        f"{setting.test_per_class} test images a class, {setting.epochs} epochs a task, batch "
        f"{setting.batch_size}, rate {setting.learning_rate:g}; four stages of {setting.blocks} "
        f"basic block(s), {setting.channels} base channels, stem of stride {stem}."
    )
