"""The command that teaches a model new classes: train-prototypes. It needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemem.cli.commands.train import (
    Checkpoint,
    InputShape,
    Json,
    Mean,
    Model,
    ModelArg,
    Out,
    Std,
    require_torch,
)
from edgemem.cli.output import say
from edgemem.cli.show import line_of, percent, print_json, print_table, progress

if TYPE_CHECKING:
    from edgemem.models.prototypes.recipe import TaskProgress
    from edgemem.models.prototypes.train_command import Outcome


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(train_prototypes)


def train_prototypes(
    checkpoint: Checkpoint,
    model: Model,
    data: Annotated[Path, typer.Option(help="Frames to learn: .npz (x, y) or class folders.")],
    out: Out,
    model_arg: ModelArg = None,
    test: Annotated[
        Path | None, typer.Option(help="Frames to test on after each task, like --data.")
    ] = None,
    classes_per_task: Annotated[
        int, typer.Option(help="New classes in a task; 0 = all in one.")
    ] = 0,
    head: Annotated[
        str | None,
        typer.Option(help="Linear layer to take off; default the last one; '' = none."),
    ] = None,
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    relation_axis: Annotated[
        str, typer.Option(help="samples, as in the paper, or prototypes, as in its code.")
    ] = "samples",
    relation_weight: Annotated[
        float, typer.Option(help="Of keeping old relations; 0 = not at all.")
    ] = 4.0,
    relation_temperature: Annotated[float, typer.Option(help="Of the relations.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the frames of a task.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Frames in a training step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of encoder and projection.")] = 0.01,
    prototype_rate: Annotated[float, typer.Option(help="Of prototypes.")] = 0.01,
    rate_at_end: Annotated[
        float, typer.Option(help="Share of the rates left at a task's end; 1 = constant rates.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 = its choice.")] = 0,
    json: Json = False,
) -> None:
    """Learn new classes without frames of old ones (prototype-sample relation distillation).

    The checkpoint is a trained classifier, whose last layer is taken off, or a file that this
    command wrote, which then knows more classes. With --test, accuracies after each task are kept
    in .by-class.json (among all classes) and .by-task.json beside --out. Progress is kept there
    after every epoch: run the same command again to go on.

    Example: edgemem train-prototypes resnet.th --model edgemem.models.networks:resnet20
    --data train.npz --classes-per-task 2 --test test.npz --out prototypes.safetensors
    """
    require_torch("train")
    from edgemem.models.prototypes import train_command
    from edgemem.models.prototypes.recipe import TaskRecipe

    recipe = TaskRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        prototype_rate=prototype_rate,
        relation_weight=relation_weight,
        relation_temperature=relation_temperature,
        rate_at_end=rate_at_end,
        relation_axis=relation_axis,  # type: ignore[arg-type]
        seed=seed,
    )
    choices = train_command.TaskChoices(input_shape, mean, std, head, classes_per_task)
    with progress("steps") as bar:
        tasks: dict[int, Any] = {}

        def note(number: int, count: int, state: TaskProgress) -> None:
            if number not in tasks:
                tasks[number] = bar.add_task(f"task {number + 1} of {count}", note="")
            text = f"loss {state.loss:.3f}, accuracy {percent(state.accuracy)}"
            bar.update(tasks[number], completed=state.step, total=state.steps, note=text)

        outcome = train_command.train_prototypes(
            checkpoint, model, model_arg or [], choices, data, test, out, recipe, note, threads,
            lambda line: line_of(bar, line),
        )  # fmt: skip
    _print(out, outcome, json)


def _print(out: Path, outcome: Outcome, json: bool) -> None:
    from edgemem.accuracy import figures

    found = {
        kind: figures(matrix)
        for kind, matrix in (("by_class", outcome.by_class), ("by_task", outcome.by_task))
        if matrix is not None
    }
    if json:
        print_json({"out": str(out), "tasks": outcome.tasks, **found})
        return
    if found:
        names = [name for name, value in found["by_class"].items() if value is not None]
        rows = [
            (name.replace("_", " "), *(percent(found[kind][name]) for kind in found))
            for name in names
        ]
        columns = ("figure", "among all classes", "among the task's")
        print_table("on test frames, after the last task", columns, rows)
    learnt = "; ".join(", ".join(map(str, task)) for task in outcome.tasks)
    say(f"{out}: learnt classes {learnt}")
