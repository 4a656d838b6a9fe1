"""One forward pass as graphs run it: block and hyper-parameters in, logits as they are read out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgemem.bundle.manifest import SUMMARY
from edgemem.export.functions.class_reading import HYPER_PARAMETERS as READING
from edgemem.export.functions.class_reading import Reading
from edgemem.export.functions.label_order import HYPER_PARAMETERS as ORDER
from edgemem.export.functions.label_order import in_order
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import PRIOR_FRAMES, Gradient
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.adaptive.outputs import Output
from edgemem.models.norms import remembered
from edgemem.models.tasks.task_outputs import summary
from edgemem.models.tensor_rows import Frames, rows

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Function:
    """A pure function with named inputs and outputs, ready to trace.

    Attributes:
        inputs: name -> example value, in order.
        outputs: names, in order.
        dynamic_batch: whether x may hold any number of frames.
        optional: inputs that a graph is without where they have no effect.
        axes: input -> axis -> name of its size, which every run chooses; equal names, equal sizes.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    call: Callable[..., tuple[Tensor, ...]]
    dynamic_batch: bool
    optional: frozenset[str] = frozenset()
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def rows_of(x: Tensor, values: Arrays) -> Frames:
    """Frames with what comes beside them among the values of a graph."""
    return rows(x, strip("in", values))


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """Names with the prefix of the graph contract."""
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


def predict_parameters(model: AdaptiveModel, batch: int) -> dict[str, float]:
    """Those that the forward pass reads."""
    alpha = model.alpha(batch)
    own = {} if alpha is None else {"alpha": alpha}
    if model.remembered():
        own |= {n: v for n, v in memory_parameters(model).items() if n != "memory_rate"}
        own |= ORDER if model.attachment.task == "classes" else {}
    if model.taught():
        own |= READING
    return own


def memory_parameters(model: AdaptiveModel) -> dict[str, float]:
    """Those of what is remembered."""
    if not model.remembered():
        return {}
    if model.attachment.task == "classes":
        return remembered.HYPER_PARAMETERS
    return {name: remembered.HYPER_PARAMETERS[name] for name in remembered.OF_MOMENTS}


def answer_names(model: AdaptiveModel) -> tuple[str, ...]:
    """The outputs that say something of each frame."""
    if model.attachment.task == "classes":
        return ("logits",)
    return (SUMMARY, *(spec.tensor for spec in model.attachment.named))


def share_of_full(known: Tensor, full: float) -> Tensor:
    """Weight of the statistics of so many frames against that of a full batch.

    The source counts as `PRIOR_FRAMES` (BN-alpha, Schneider et al. 2020); exactly 1 from a full
    batch on.
    """
    share = known * (full + PRIOR_FRAMES) / ((known + PRIOR_FRAMES) * full)
    return share.clamp(max=1.0)


def weighed_by_frames(
    model: AdaptiveModel, block: Arrays, count: Tensor, full: float, hp: Arrays
) -> Arrays:
    """The hyper-parameters, with less weight for statistics of fewer frames than a full batch.

    Those that the block remembers count, too.
    """
    if "alpha" not in hp:
        return hp
    known = count + block[remembered.FRAMES] if model.remembered() else count
    return hp | {"alpha": hp["alpha"] * share_of_full(known, full)}


def present_rows(x: Tensor, filled: Tensor) -> Tensor:
    """[n]: one for the first so many rows, zero for the others."""
    rows = torch.arange(x.shape[0], dtype=filled.dtype, device=x.device)
    return (filled - rows).clamp(0.0, 1.0)


def answers(
    model: AdaptiveModel,
    output: Output,
    block: Arrays,
    count: Tensor,
    hp: Arrays,
    present: Tensor | None = None,
    reading: Reading | None = None,
) -> tuple[Tensor, ...]:
    """What is said of each frame, as `answer_names` has it."""
    attachment = model.attachment
    if attachment.task == "classes":
        return (answer(model, output, block, count, hp, present, reading),)
    told = summary(attachment.task, model.attachment.scale, output.named, attachment.named)
    return (told, *(output.named[spec.name] for spec in attachment.named))


def answer(
    model: AdaptiveModel,
    output: Output,
    block: Arrays,
    count: Tensor,
    hp: Arrays,
    present: Tensor | None = None,
    reading: Reading | None = None,
) -> Tensor:
    """Logits after the remembered class prior and the order of labels, where there is a memory."""
    if not model.remembered():
        return output.logits
    prior, opened, own = block[remembered.CLASS_PRIOR], None, 0
    if reading is not None:
        opened, own = reading.opened(block, hp), reading.own
    logits = remembered.weighed(output.logits, prior, hp, opened, own)
    return in_order(logits, count, hp["label_order"], present, opened)


def forward(
    model: AdaptiveModel,
    block: Arrays,
    x: Frames,
    count: Tensor,
    hp: Arrays,
    gradient: Gradient = "full",
    present: Tensor | None = None,
    reading: Reading | None = None,
) -> tuple[Output, Tensor]:
    """What a forward pass gives: logits as they are read, and the features they come from.

    No features without a reading.
    """
    weight, shares = None, None if present is None else present / count
    if model.remembered():
        weight = remembered.batch_weight(count, block, hp)
    model.gradient = gradient
    try:
        arguments = (x, hp.get("alpha"), weight, shares)
        if reading is None:
            return model.with_block(block, *arguments), count.new_zeros(0)
        with features_of(reading.classifier) as seen:
            output = model.with_block(block, *arguments)
    finally:
        model.gradient = "full"
    return output._replace(logits=reading.read(output.logits, seen[0], block, hp)), seen[0]


def detached(arrays: Arrays) -> Arrays:
    """Copies without a gradient: tracing takes the block's own arrays for inputs."""
    return {name: value.detach().clone() for name, value in arrays.items()}


def strip(prefix: str, values: Arrays) -> Arrays:
    """The arrays that carry a prefix, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): v for n, v in values.items() if n.startswith(start)}
