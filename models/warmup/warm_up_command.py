"""`edgemem warmup`: from a checkpoint on disk to one that is warmed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgemem.errors import CheckpointError, InputError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive, save_adaptive
from edgemem.models.checkpoints.checkpoint import check_writable
from edgemem.models.data import class_names, load_dataset
from edgemem.models.given_models.factory import Say
from edgemem.models.model_options import AttachSettings, load_model
from edgemem.models.threads import set_threads
from edgemem.models.warmup.warm_up import warm_up
from edgemem.models.warmup.warm_up_recipe import Progress, Recipe


def warm_up_checkpoint(  # noqa: PLR0913, PLR0917 - one command line, option by option
    checkpoint: Path,
    target: str | None,
    arguments: Sequence[str],
    settings: AttachSettings,
    data: Path,
    out: Path,
    recipe: Recipe,
    report: Callable[[Progress], None],
    threads: int,
    *,
    rehearse: Callable[[AdaptiveModel], None] = lambda model: None,
    say: Say = lambda line: None,
    names: tuple[str, ...] | None = None,
) -> None:
    """`edgemem warmup`: attach, train, save; the progress file beside `out` goes at the end.

    rehearse: asked before hours of training whether the model can be exported after them; raises.
    names: of the classes in the model's order, which number class folders; None = by alphabet.
    """
    check_writable(out)
    if is_adaptive(checkpoint):
        raise CheckpointError(
            str(checkpoint), "is warmed up already", "Pass the original checkpoint"
        )
    set_threads(threads)
    adaptive, source = load_model(checkpoint, target, arguments, settings, say)
    adaptive.labels = _class_names(adaptive, data, names) or adaptive.labels
    frames, labels = load_dataset(data, names)
    if frames.shape[1:] != adaptive.attachment.input_shape:
        raise InputError(
            str(data),
            f"has frames of {list(frames.shape[1:])}, the model takes "
            f"{list(adaptive.attachment.input_shape)}",
            "Pass frames of that shape, channels first",
        )
    rehearse(adaptive)
    resume = out.with_suffix(".progress.safetensors")
    warm_up(adaptive, frames, labels, recipe, resume=resume, report=report)
    save_adaptive(adaptive, out, source)
    resume.unlink(missing_ok=True)


def _class_names(
    model: AdaptiveModel, data: Path, names: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Names of classes, as given or as the class folders are called.

    Raises InputError if there are not as many as the model has classes.
    """
    classes, folders = model.classes, class_names(data)
    if names is not None and len(names) != classes:
        raise InputError(
            "--labels", f"are {len(names)} names for {classes} classes", "Name every class"
        )
    if names is None and folders is not None and len(folders) != classes:
        raise InputError(
            str(data),
            f"has {len(folders)} class folders ({', '.join(folders)}), the model has {classes} "
            "classes, so nobody can say which is which",
            "Name all classes in the model's order with --labels, or add an empty folder for each "
            "that has no pictures",
        )
    return names or folders
