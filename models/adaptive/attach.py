"""`attach`: give the named parts of a frozen model a meta network each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from edgemem.bundle.further_input import InputSpec
from edgemem.errors import AttachError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import (
    Attachment,
    Normalization,
    Statistics,
    check_statistics,
)
from edgemem.models.adaptive.meta_network import CONVOLUTIONS, Form, MetaNetwork
from edgemem.models.adaptive.model_inputs import input_specs
from edgemem.models.adaptive.norm_layers import adapt_norms
from edgemem.models.adaptive.outputs import RECOGNISE, Outputs
from edgemem.models.adaptive.parts import Part, find_part
from edgemem.models.adaptive.site_norms import add_sites
from edgemem.models.inspection.part_shapes import part_error, part_shapes, refused_example
from edgemem.models.inspection.trial import Trial, trial_frames, try_out
from edgemem.models.inspection.untouched import check_untouched
from edgemem.models.norms.statistics import MixedStatistics, PassSettings
from edgemem.models.tasks.named_outputs import flat
from edgemem.models.tasks.task_outputs import AUTO, Task, check_task
from edgemem.models.tensor_rows import Frames, cat, rows

CHECKED = 16  # frames of the example that are compared


def attach(  # noqa: PLR0913 - each is a choice of its own
    model: nn.Module,
    parts: Sequence[str],
    example_input: Tensor,
    *,
    statistics: Statistics = "mix",
    form: Form | None = None,
    norm_affine: bool = False,
    normalization: Normalization | None = None,
    outputs: Outputs | None = None,
    sites: Sequence[str] = (),
    task: Task | Literal["auto"] = AUTO,
    inputs: Mapping[str, Tensor] | None = None,
) -> AdaptiveModel:
    """Return an adaptive copy of `model`; the model itself is left as it was.

    Args:
        model: any module that maps one tensor to logits [n, classes] (or to an object with
            `.logits`), or to what another task says. With no parts and no sites, it must run at
            least one norm (BatchNorm, LayerNorm, GroupNorm or RMSNorm).
        parts: dotted names or ranges (`layer3[0:3]`) of modules that take and return one tensor [n,
            c], [n, c, t], [n, c, h, w] or [n, c, d, h, w], in any order. Empty: no meta networks.
        example_input: frames [n, ...] float32, as the device will pass them; or token ids, int64.
        statistics: of all norms: "source", "batch", "mix" (the source counts as 16 frames),
            "remembered" (what the block remembers of its context, with its class prior), or a
            weight between 0 and 1 for the batch. "source" is fixed at export; the others set the
            default of `hp.alpha`.
        form: the convolution of the meta networks; default dense 3x3.
        norm_affine: put the affine pairs of the frozen norms into the block too.
        normalization: mean and deviation per channel, applied to the frames first.
        outputs: of classes, what the model returns; default what it is recognised to return.
            Probabilities and one logit or probability of two classes are made logits [n, classes].
        sites: names of layers (convolutions, linear layers, LayerNorm, GroupNorm, RMSNorm) behind
            which an identity norm aligns moments, once `measure_source` has measured those of the
            source.
        task: "classes", "multilabel" [n, labels], "dense" [n, classes, h, w], "sequence" [n, t,
            classes] or [t, n, classes], "detection" (any), "regression" (any numbers), "embedding"
            [n, numbers] or "reconstruction" (as the frames are): what the first output is, where
            tuple, dict or object hold several. "auto": classes, for one row of numbers a frame.
        inputs: examples [n, ...] of what the model takes beside the frames (float32, int64, bool),
            under the names of its parameters, or else in the order of these. They reach the model
            as they are. Whole numbers may be no others on a device than the rows of the
            `nn.Embedding` that they choose from, or those between the example's least and largest.

    Raises:
        AttachError: unknown part, a part with several inputs, no norm, an output that does not fit
            the task, …; or the adaptive model at rest is not the model that was given.
    """
    check_statistics(statistics)
    _check_outputs(outputs)
    check_task(task, outputs)
    frozen, example = _frozen_copy(model), rows(example_input, inputs)
    ids, specs = _inputs(frozen, example)
    if ids is not None and normalization is not None:
        raise AttachError("mean and deviation", "mean nothing to token ids", "Leave them out")
    attachment = Attachment(
        tuple(parts),
        statistics,
        form or Form(),
        norm_affine,
        normalization,
        tuple(example_input.shape[1:]),
        outputs or "logits",
        tuple(sites),
        ids=ids,
        inputs=specs,
    )
    settings = PassSettings()
    found = [find_part(frozen, name) for name in parts]
    adaptive = AdaptiveModel(frozen, settings, attachment)
    if outputs is None:
        _recognise(adaptive, example, task)
    shapes = part_shapes(adaptive, found, example)
    trial = _try_out(adaptive, found, example)
    if adaptive.attachment.task == "classes" and trial.classes < 2:
        raise AttachError("model", "returns one number a frame, not logits of classes", RECOGNISE)
    adaptive.classifier_name = _name_of(frozen, trial.classifier)
    adapt_norms(adaptive, trial)
    add_sites(adaptive, example)
    for part in found:
        meta = _meta_network(part.name, shapes[part.name], attachment.form, settings)
        _set_rows(meta, part, trial, attachment.statistics)
        # Found again: a part can itself be a norm, which has just been replaced.
        adaptive.add_meta_network(find_part(frozen, part.name), meta)
    _check_statistics_matter(adaptive)
    if norm_affine:
        adaptive.add_norm_affine()
    if adaptive.attachment.statistics == "remembered":
        adaptive.make_remembering(trial.classes)
    adaptive.to(example_input.device).eval()
    check_untouched(adaptive, cat([trial_frames(example), example[:CHECKED]]))
    return adaptive


def _inputs(
    network: nn.Module, example: Frames
) -> tuple[tuple[int, int] | None, tuple[InputSpec, ...]]:
    try:
        return input_specs(network, example)
    except AttachError:
        raise
    except Exception as error:
        raise refused_example(example, error) from error


def _frozen_copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        raise AttachError(
            f"model {type(model).__name__}",
            f"cannot be copied ({error})",
            "Remove what holds computed tensors, such as the old torch.nn.utils.weight_norm",
        ) from error


def _name_of(network: nn.Module, layer: nn.Module | None) -> str | None:
    return next((name for name, module in network.named_modules() if module is layer), None)


def _try_out(adaptive: AdaptiveModel, parts: list[Part], example: Frames) -> Trial:
    """What runs in the model that was given, with its layers as those of the frozen copy."""
    firsts = [part.first for part in parts]

    def answer(x: Frames) -> Tensor:
        output = adaptive(x)
        named = adaptive.attachment.named
        return flat(output.named, named) if named else output.logits

    return try_out(adaptive.frozen, answer, example, firsts)


def _check_outputs(outputs: Outputs | None) -> None:
    if outputs is not None and outputs not in get_args(Outputs):
        raise AttachError(
            f"outputs {outputs!r}", "is not a known choice", f"Use {', '.join(get_args(Outputs))}"
        )


def _check_statistics_matter(adaptive: AdaptiveModel) -> None:
    """Without a layer that has statistics of its source, those of batches have no place."""
    if any(isinstance(module, MixedStatistics) for module in adaptive.modules()):
        if adaptive.attachment.statistics == "remembered" and adaptive.key_norm is None:
            raise AttachError(
                "statistics 'remembered'",
                "needs a BatchNorm layer or a site, by whose input contexts are told apart; "
                "none runs",
                "Name sites, or use statistics mix",
            )
        return
    if not len(adaptive.norms):
        raise AttachError(
            f"model {type(adaptive.frozen).__name__}",
            "runs no BatchNorm, LayerNorm, GroupNorm or RMSNorm layer, and no part or site was "
            "named, so nothing of it could adapt",
            "Name sites and measure them on source frames, or name parts for meta networks",
        )
    if adaptive.attachment.statistics == "remembered":
        raise AttachError(
            "statistics 'remembered'",
            "has nothing to remember: no BatchNorm layer runs, and no part or site was named",
            "Name sites, or use statistics source",
        )
    adaptive.attachment = replace(adaptive.attachment, statistics="source")


def _set_rows(meta: MetaNetwork, part: Part, trial: Trial, statistics: Statistics) -> None:
    rows = trial.rows[part.first]
    if rows is None and statistics != "source":
        raise part_error(
            part.name,
            "takes rows that are not those of one frame after another, with statistics "
            f"{statistics!r}",
        )
    for module in meta.modules():
        if isinstance(module, MixedStatistics):
            module.rows = rows or 1


def _recognise(adaptive: AdaptiveModel, example: Frames, task: Task | Literal["auto"]) -> None:
    try:
        adaptive.recognise_outputs(example, task)
    except AttachError:
        raise
    except Exception as error:
        raise refused_example(example, error) from error


def _meta_network(
    name: str, shapes: tuple[torch.Size, torch.Size], form: Form, settings: PassSettings
) -> MetaNetwork:
    before, after = shapes
    if len(before) != len(after) or len(before) not in CONVOLUTIONS:
        raise part_error(
            name, f"maps {list(before)} to {list(after)}; a meta network needs [n, c, …] maps"
        )
    stride = []
    for size_in, size_out in zip(before[2:], after[2:], strict=True):
        step = -(-size_in // size_out)  # if any stride does, the smallest one is this
        if -(-size_in // step) != size_out:
            raise part_error(name, f"maps size {size_in} to {size_out}, which no stride does")
        stride.append(step)
    channels, groups = (before[1], after[1]), form.groups or 1
    grouped = (form.inner(after[1]),) if form.bottleneck else channels
    if any(count % groups for count in grouped):
        sizes = " to ".join(map(str, grouped))
        raise part_error(name, f"has {sizes} channels to convolve, not {groups} groups")
    return MetaNetwork(channels, tuple(stride), len(before), form, settings)
