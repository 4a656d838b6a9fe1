"""From a model and unlabelled source frames to one that adapts, without a warm-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgemem.errors import AttachError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import Normalization, Statistics
from edgemem.models.adaptive.model_inputs import input_specs
from edgemem.models.data import Frames, to_float
from edgemem.models.sites.choosing import ChosenSites, choose_sites
from edgemem.models.sites.measuring import measure_source
from edgemem.models.tasks.task_outputs import AUTO, Task
from edgemem.models.tensor_rows import as_rows, frames_of, others_of
from edgemem.models.warmup.source_checks import check_source
from edgemem.models.warmup.source_keys import observe_source

EXAMPLES = 8


def align(  # noqa: PLR0913 - each is a choice of its own
    model: nn.Module,
    frames: Frames,
    labels: NDArray[np.int64] | None = None,
    *,
    sites: Sequence[str] | Literal["auto"] = "auto",
    statistics: Statistics = "remembered",
    normalization: Normalization | None = None,
    norm_affine: bool = True,
    task: Task | Literal["auto"] = AUTO,
    batch: int = 16,
    note: Callable[[str], None] = lambda text: None,
    inputs: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[AdaptiveModel, ChosenSites | None]:
    """An adaptive copy of `model` around the moments of source frames, ready for export.

    The model itself is left as it was. No meta network is attached and nothing is trained.

    Args:
        model: as `attach` takes it.
        frames: [n, ...] of the source, uint8 (divided by 255) or float32; some hundreds. Token ids
            are int64: they cannot be shifted, so sites "auto" are the norms of the model, untried.
        labels: [n] class indices, where they are known.
        sites: layers behind which moments are aligned beside those of BatchNorms; "auto" = those
            that gain on synthetic shifts of the frames (`choose_sites`).
        statistics: as `attach` takes it.
        normalization: mean and deviation per channel, applied to the frames first.
        norm_affine: put scales and shifts of all norms into the block, for steps to learn.
        task: as `attach` takes it.
        batch: frames in a batch of the device.
        note: is given a word about what is tried.
        inputs: [n, ...] by name, what the model takes beside the frames; as `attach` has it.

    Returns:
        The model, and how its sites were chosen; None where they were named.

    Raises:
        AttachError: see `attach`.
        InputError: too few source frames, or of another scale than the model was trained on.
    """
    chosen, rows = None, as_rows(frames, inputs)
    if sites == "auto":
        chosen = choose_sites(
            model,
            rows,
            labels,
            normalization=normalization,
            task=task,
            batch=batch,
            note=note,
        )
        sites = chosen.names
    example = to_float(rows[:EXAMPLES])
    adaptive = attach(
        model,
        [],
        frames_of(example),
        statistics=statistics,
        norm_affine=norm_affine,
        normalization=normalization,
        sites=sites,
        task=task,
        inputs=others_of(example),
    )
    ids, specs = input_specs(adaptive.untouched, to_float(rows))
    adaptive.attachment = replace(adaptive.attachment, ids=ids, inputs=specs)
    if task == AUTO and labels is None and adaptive.attachment.outputs == "one logit":
        raise AttachError(
            "model",
            "returns one number a frame: a logit of two classes, or any number",
            "Name its task (edgemem export --task, or align(..., task=...)): 'classes' or "
            "'regression'",
        )
    if chosen is not None:
        adaptive.attachment = replace(adaptive.attachment, remembered_alpha=chosen.alpha)
    check_source(adaptive, rows, labels)
    note("sites: measuring")
    measure_source(adaptive, rows)
    observe_source(adaptive, rows, labels)
    return adaptive, chosen
