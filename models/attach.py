"""`attach`: give the named parts of a frozen model a meta network each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.adaptive import AdaptiveModel, Attachment, Normalization, Statistics
from edgemem.models.meta_network import CONVOLUTIONS, Form, MetaNetwork
from edgemem.models.outputs import Outputs
from edgemem.models.parts import Part, find_part
from edgemem.models.statistics import FrozenNorm, Settings


def attach(
    model: nn.Module,
    parts: Sequence[str],
    example_input: Tensor,
    *,
    statistics: Statistics = "mix",
    form: Form | None = None,
    norm_affine: bool = False,
    normalization: Normalization | None = None,
    outputs: Outputs | None = None,
) -> AdaptiveModel:
    """Return an adaptive copy of `model`; the model itself is left as it was.

    Args:
        model: any module that maps one tensor to logits [n, classes] (or to an object with
            `.logits`). It must hold at least one BatchNorm layer.
        parts: dotted names or ranges (`layer3[0:3]`) of modules that take and return one
            tensor [n, c, t] or [n, c, h, w], in any order. Empty: no meta networks.
        example_input: frames [n, ...] float32, as the device will pass them.
        statistics: of all norms: "source", "batch", "mix" (the source counts as 16 frames),
            "remembered" (what the block remembers of its context, with its class prior), or a
            weight between 0 and 1 for the batch. "source" is fixed at export; the others set the
            default of `hp.alpha`.
        form: the convolution of the meta networks; default dense 3x3.
        norm_affine: put the affine pairs of the frozen BatchNorm layers into the block too.
        normalization: mean and deviation per channel, applied to the frames first.
        outputs: what the model returns; default what it is recognised to return. Probabilities and
            one logit or probability of two classes are made logits [n, classes].

    Raises:
        AttachError: unknown part, a part with several inputs, no BatchNorm layer, an output that is
            no choice among classes, …
    """
    _check_statistics(statistics)
    attachment = Attachment(
        tuple(parts),
        statistics,
        form or Form(),
        norm_affine,
        normalization,
        tuple(example_input.shape[1:]),
        outputs or "logits",
    )
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    settings = Settings()
    found = [find_part(frozen, name) for name in parts]
    adaptive = AdaptiveModel(frozen, settings, attachment)
    if outputs is None:
        _recognise(adaptive, example_input)
    shapes = _part_shapes(adaptive, found, example_input)
    norms = _replace_norms(frozen, settings)
    for name in parts:
        meta = _meta_network(name, shapes[name], attachment.form, settings)
        # Found again: a part can itself be a norm, which has just been replaced.
        adaptive.add_meta_network(find_part(frozen, name), meta)
    if norm_affine:
        adaptive.add_norm_affine()
    if statistics == "remembered":
        with torch.no_grad():
            adaptive.make_remembering(adaptive.frozen_logits(example_input).shape[1])
    _mark_key(adaptive, norms, example_input)
    return adaptive.to(example_input.device).eval()


def _check_statistics(statistics: Statistics) -> None:
    if statistics in ("source", "batch", "mix", "remembered"):
        return
    if not isinstance(statistics, (int, float)) or not 0.0 <= statistics <= 1.0:
        raise AttachError(
            f"statistics {statistics!r}",
            "is not a known choice",
            "Use 'source', 'batch', 'mix', 'remembered' or a weight between 0 and 1",
        )


def _replace_norms(frozen: nn.Module, settings: Settings) -> list[FrozenNorm]:
    """Swap every BatchNorm for a FrozenNorm, in place."""
    norms: dict[nn.Module, FrozenNorm] = {}  # a norm may have several names
    for parent in list(frozen.modules()):
        for name, child in parent._modules.items():
            if not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            if child.running_mean is None:
                raise AttachError(
                    f"BatchNorm layer {name!r}",
                    "keeps no running statistics, so its source statistics are unknown",
                    "Train it with track_running_stats=True",
                )
            if child not in norms:
                norms[child] = FrozenNorm(child, settings)
            parent._modules[name] = norms[child]
    if not norms:
        raise AttachError(
            f"model {type(frozen).__name__}",
            "has no BatchNorm layer, so it has no source statistics to adapt from",
            "Use a model with BatchNorm1d or BatchNorm2d layers",
        )
    return list(norms.values())


def _recognise(adaptive: AdaptiveModel, example_input: Tensor) -> None:
    try:
        adaptive.recognise_outputs(example_input)
    except AttachError:
        raise
    except Exception as error:
        raise _refused(example_input, error) from error


def _refused(example_input: Tensor, error: Exception) -> AttachError:
    return AttachError(
        f"example input {list(example_input.shape)}",
        f"the model refuses it ({error})",
        "Pass frames of the shape the model was trained on",
    )


def _part_shapes(
    adaptive: AdaptiveModel, parts: list[Part], example_input: Tensor
) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Run the example once and note input and output shape of every part."""
    inputs: dict[str, torch.Size] = {}
    outputs: dict[str, torch.Size] = {}
    active: list[str] = []
    handles = []
    for part in parts:

        def enter(
            _: nn.Module,
            args: tuple[object, ...],
            keywords: dict[str, object],
            name: str = part.name,
        ) -> None:
            if active:
                raise _part_error(name, f"lies inside part {active[-1]!r}")
            if name in inputs:
                raise _part_error(name, "runs more than once in a forward pass")
            active.append(name)
            inputs[name] = _single_tensor(name, args, "takes", keywords)

        def leave(_: nn.Module, __: object, output: object, name: str = part.name) -> None:
            outputs[name] = _single_tensor(name, (output,), "returns")
            active.remove(name)

        handles.append(part.first.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.last.register_forward_hook(leave))
    try:
        with torch.no_grad():
            adaptive(example_input)
    except AttachError:
        raise
    except Exception as error:
        raise _refused(example_input, error) from error
    finally:
        for handle in handles:
            handle.remove()
    for part in parts:
        if part.name not in outputs:
            raise _part_error(part.name, "does not run in a forward pass")
    return {name: (inputs[name], outputs[name]) for name in inputs}


def _single_tensor(
    name: str,
    values: tuple[object, ...],
    verb: str,
    keywords: Mapping[str, object] | None = None,
) -> torch.Size:
    named = {key: value for key, value in (keywords or {}).items() if value is not None}
    if named or len(values) != 1 or not isinstance(values[0], Tensor):
        kinds = ", ".join(
            [type(value).__name__ for value in values]
            + [f"{key}={type(value).__name__}" for key, value in named.items()]
        )
        how = "one tensor, by position" if named else "exactly one tensor"
        raise _part_error(name, f"{verb} ({kinds}), not {how}")
    return values[0].shape


def _part_error(name: str, reason: str) -> AttachError:
    return AttachError(
        f"part {name!r}", reason, "Choose parts that run one after another, one tensor in and out"
    )


def _meta_network(
    name: str, shapes: tuple[torch.Size, torch.Size], form: Form, settings: Settings
) -> MetaNetwork:
    before, after = shapes
    if len(before) != len(after) or len(before) not in CONVOLUTIONS:
        raise _part_error(
            name, f"maps {list(before)} to {list(after)}; a meta network needs [n, c, …] maps"
        )
    stride = []
    for size_in, size_out in zip(before[2:], after[2:], strict=True):
        step = -(-size_in // size_out)  # if any stride does, the smallest one is this
        if -(-size_in // step) != size_out:
            raise _part_error(name, f"maps size {size_in} to {size_out}, which no stride does")
        stride.append(step)
    channels, groups = (before[1], after[1]), form.groups or 1
    grouped = (form.inner(after[1]),) if form.bottleneck else channels
    if any(count % groups for count in grouped):
        sizes = " to ".join(map(str, grouped))
        raise _part_error(name, f"has {sizes} channels to convolve, not {groups} groups")
    return MetaNetwork(channels, tuple(stride), len(before), form, settings)


def _mark_key(adaptive: AdaptiveModel, norms: list[FrozenNorm], example_input: Tensor) -> None:
    """The context key comes from the first norm that runs: only frozen layers lie before it."""
    order: list[FrozenNorm] = []
    handles = [
        norm.register_forward_pre_hook(lambda module, _: order.append(module)) for norm in norms
    ]
    with torch.no_grad():
        adaptive(example_input)
    for handle in handles:
        handle.remove()
    order[0].is_key = True
