"""Commands of the train side: warmup and export. Both need torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgemem.cli.commands.train_labels import read_labels
from edgemem.cli.exported import print_exported
from edgemem.cli.output import complain, say
from edgemem.cli.show import line_of, percent, print_json, progress
from edgemem.errors import MissingExtraError

Checkpoint = Annotated[
    Path, typer.Argument(help="Weights of torch, as .safetensors, .pt, .ckpt, …")
]
AnyModel = Annotated[
    Path,
    typer.Argument(
        help="ONNX file, folder of Hugging Face, or weights of torch (.safetensors, .pt, .ckpt, …)."
    ),
]
Model = Annotated[str, typer.Option(help="package.module:factory of the model.")]
ModelOrNone = Annotated[
    str | None,
    typer.Option(
        help="Of weights alone: package.module:factory, timm:NAME or torchvision:NAME; what was "
        "warmed up from a file: that file."
    ),
]
ModelArg = Annotated[
    list[str] | None, typer.Option(help="Argument of the factory, name=value; repeatable.")
]
Parts = Annotated[
    str | None,
    typer.Option(help="Parts to give a meta network: 'layer1,layer2,layer3[0:3]'."),
]
Out = Annotated[Path, typer.Option(help="What to write.")]
Statistics = Annotated[
    str | None,
    typer.Option(
        help="source, batch, mix, remembered or a weight from 0 to 1; default as warmed up, else "
        "mix, or remembered for outputs without classes."
    ),
]
InputShape = Annotated[
    str | None, typer.Option(help="Shape of one frame, such as 3,32,32; default the model's own.")
]
Mean = Annotated[str | None, typer.Option(help="Mean per channel that the model expects removed.")]
Std = Annotated[str | None, typer.Option(help="Deviation per channel to divide by.")]
KernelSize = Annotated[int, typer.Option(help="Kernel of the meta networks.")]
Bottleneck = Annotated[
    int, typer.Option(help="Narrow the meta networks by this factor; 0 = dense.")
]
Groups = Annotated[int, typer.Option(help="Groups of their convolution; 0 = depthwise.")]
Labels = Annotated[
    str | None,
    typer.Option(help="Class names in the model's order: a,b,c, or a .txt with one a line."),
]
CALIBRATION_FRAMES = 512
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(warmup)
    app.command()(export)


def warmup(
    checkpoint: AnyModel,
    data: Annotated[Path, typer.Option(help="Source data: .npz (x, y) or class folders.")],
    parts: Annotated[str, typer.Option(help="Parts: 'layer1,layer2,layer3[0:3]'.")],
    out: Out,
    model: ModelOrNone = None,
    model_arg: ModelArg = None,
    statistics: Annotated[
        str, typer.Option(help="source, batch, mix, remembered, or a weight from 0 to 1.")
    ] = "remembered",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    kernel_size: KernelSize = 3,
    bottleneck: Bottleneck = 0,
    groups: Groups = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Frames in a training step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.05,
    labels: Labels = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 = its choice.")] = 0,
    json: Json = False,
) -> None:
    """Train meta networks for a frozen checkpoint on source data.

    Progress is kept beside --out after every epoch: run the same command again to go on. The file
    keeps up to 512 source frames (8 MB), with which later commands compare and calibrate.

    Example: edgemem warmup resnet.th --model edgemem.models.networks:resnet20
    --parts layer1,layer2,layer3 --data train.npz --out warm.safetensors
    """
    require_torch("train")
    from edgemem.models.model_options import AttachSettings
    from edgemem.models.warmup.warm_up_command import warm_up_checkpoint
    from edgemem.models.warmup.warm_up_recipe import Progress, Recipe

    settings = AttachSettings(
        parts, statistics, input_shape, mean, std, kernel_size, bottleneck, groups
    )
    recipe = Recipe(epochs, batch_size, learning_rate, seed=seed)
    last: list[Progress] = []
    with progress("steps") as bar:
        task = bar.add_task("warm-up", total=None, note="")

        def note(state: Progress) -> None:
            last[:] = [state]
            text = f"loss {state.loss:.3f}, accuracy {percent(state.accuracy)}"
            bar.update(task, completed=state.step, total=state.steps, note=text)

        warm_up_checkpoint(
            checkpoint, model, model_arg or [], settings, data, out, recipe, note, threads,
            rehearse=_rehearse,
            say=lambda line: line_of(bar, line),
            names=read_labels(labels),
        )  # fmt: skip
    figures = vars(last[0]) if last else {}
    if json:
        print_json({"out": str(out), **figures})
    else:
        with_model = f"--model {model or checkpoint}"
        say(f"{out}: warmed up. Next: edgemem export {out} {with_model} --out NAME.edgemem")


def export(
    checkpoint: AnyModel,
    out: Out,
    model: ModelOrNone = None,
    parts: Parts = None,
    model_arg: ModelArg = None,
    batch: Annotated[int, typer.Option(help="Frames in one adaptation step.")] = 16,
    gradient: Annotated[
        str, typer.Option(help="full, or meta: a cheaper step that gains less.")
    ] = "full",
    statistics: Statistics = None,
    norm_affine: Annotated[
        bool | None,
        typer.Option(help="Adapt scales and shifts of frozen norms; default with --gradient full."),
    ] = None,
    learn: Annotated[str, typer.Option(help="norms: scales and shifts alone; or all.")] = "norms",
    objective: Annotated[
        str | None,
        typer.Option(
            help="ecotta, likelihood_ratio, prototype_relation, tent, alignment, "
            "subspace_alignment; statistics: no gradient. Default likelihood_ratio for classes, "
            "else statistics."
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="What the outputs are: classes, multilabel, dense, sequence, detection, "
            "regression, embedding, reconstruction; auto: classes, where that is unmistakable."
        ),
    ] = "auto",
    optimizer: Annotated[str, typer.Option(help="sgd or adam.")] = "sgd",
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the step; default what source frames allow.")
    ] = None,
    labels: Labels = None,
    target: Annotated[
        str, typer.Option(help="Engines that get graphs: onnx, litert, qnn, coreml; with commas.")
    ] = "onnx",
    int8: Annotated[
        Path | None, typer.Option(help="Source frames (.npz with x): frozen kernels in 8 bits.")
    ] = None,
    max_classes: Annotated[
        int | None,
        typer.Option(help="Room for classes taught on the device, the model's own included."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Source frames, no labels needed: .npz with x, and what the model takes beside it "
            "by name; or images in a folder."
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            help="With --source, layers where moments are aligned: names, none, or auto (default)."
        ),
    ] = None,
    frames_input: Annotated[
        str | None,
        typer.Option(help="Of an ONNX file with several inputs, the one that the frames are."),
    ] = None,
    input_shape: InputShape = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Further sizes of frames, such as 48x160,48x480; each gets graphs of its own."
        ),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    json: Json = False,
) -> None:
    """Turn a checkpoint into a bundle that adapts on a device without torch.

    The bundle is compared with torch before it is put in place: every output of the first step
    within 1e-5 (of deep networks, which round more, up to 1e-4), gradients within 1e-3 of their own
    size, the block within 1e-4 after 20 steps.
    Without --learning-rate, source frames decide whether steps help, and how large they are.

    Example: edgemem export resnet.th --model edgemem.models.networks:resnet20
    --source frames.npz --out camera.edgemem

    After a warm-up: edgemem export warm.safetensors --model edgemem.models.networks:resnet20
    --batch 16 --out camera.edgemem
    """
    require_torch("export")
    from edgemem.bundle.opening import open_bundle
    from edgemem.export.choices import Choices
    from edgemem.export.export_command import export_checkpoint
    from edgemem.models.model_options import AttachSettings

    settings = AttachSettings(
        parts, statistics, input_shape, mean, std,
        norm_affine=norm_affine, source=source, frames_input=frames_input, sites=sites, task=task,
        sizes=sizes,
    )  # fmt: skip
    choices = Choices(
        batch=batch,
        gradient=gradient,  # type: ignore[arg-type]
        learn=learn,  # type: ignore[arg-type]
        objective=objective,
        optimizer=optimizer,
        learning_rate=learning_rate,
        labels=read_labels(labels),
        targets=tuple(name.strip() for name in target.split(",")),
        int8=None if int8 is None else _calibration(int8),
        max_classes=max_classes,
    )
    with progress("stages") as bar:
        work = bar.add_task("export", total=None, note="")  # how many depends on the model

        def note(stage: str) -> None:
            bar.update(work, advance=1, note=stage)

        parity = export_checkpoint(
            checkpoint, model, model_arg or [], settings, choices, out, note,
            lambda line: line_of(bar, line),
        )  # fmt: skip
        bar.update(work, total=bar.tasks[0].completed)
    manifest = open_bundle(out).manifest
    print_exported(out, parity, manifest, given=learning_rate is not None, json=json)


def _rehearse(model: Any) -> None:
    """Meet before a warm-up what `edgemem export` would meet after it, where that is installed."""
    try:
        require_torch("export")
    except MissingExtraError:
        return
    from edgemem.export.checks.rehearsal import rehearse

    if (error := rehearse(model)) is not None:
        complain(f"This model needs edgemem export --gradient meta: {error}")


def _calibration(path: Path) -> Any:
    """Some frames of a data set, from all over it: it may be sorted by class."""
    from edgemem.models.data import load_dataset

    frames, _ = load_dataset(path)
    return frames[:: max(1, len(frames) // CALIBRATION_FRAMES)][:CALIBRATION_FRAMES]


def require_torch(extra: str) -> None:
    """Refuse to go on without the packages of an extra.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    import importlib.util

    needed = ("torch",) if extra == "train" else ("torch", "onnx", "onnxscript")
    for module in needed:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
