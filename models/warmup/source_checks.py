"""What source frames say about a model before hours are spent on it: kind of output, scale, range.

A model keeps, in its first norm, what its own training data looked like there. Source frames that
come out tens of deviations away are not the frames that it was trained on: most often a mean and a
deviation for frames of 0 to 255 are applied to frames of 0 to 1, or the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.errors import InputError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attachment import Normalization
from edgemem.models.data import to_float
from edgemem.models.sites.identity_norm import IdentityNorm
from edgemem.models.tensor_rows import Frames, frames_of, split, with_frames

FRAMES, FEW, CHUNK = 512, 64, 64
FAR, NEAR = 20.0, 3.0  # deviations, or ratios of them: data of another scale; of the same
MEAN, DEVIATIONS = 5.0, (0.02, 50.0)  # of what models are given, as a rule
BYTES = 255.0
TAILS = (0.001, 0.999)  # quantiles that stand for the range


def check_source(
    model: AdaptiveModel, frames: NDArray[Any], labels: NDArray[np.int64] | None
) -> None:
    """Learn from source frames [n, ...] what kind of output the model has, and its range.

    labels: [n], of the frames; None = not known, so that a single output is taken as it is.

    Raises:
        AttachError: an output that cannot be adapted, see `recognised`.
        InputError: frames of another scale than the model was trained on; a single output that says
            no more about the labels than chance.
    """
    places = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).astype(np.int64)
    x = to_float(frames[places])
    if model.attachment.ids is None:  # token ids have no scale
        model.source_range = _range(frames_of(x))
        _check_scale(model, x)
    model.recognise_outputs(x[:FEW], model.attachment.task)
    if labels is not None and model.attachment.outputs in ("one logit", "one probability"):
        _check_decision(model, x, torch.from_numpy(labels[places]))


def _range(x: Tensor) -> Tensor:
    """[2, channels]: what values of each channel of frames [n, channels, ...] lie between."""
    values = x.movedim(1, 0).flatten(1).numpy()
    return torch.from_numpy(np.quantile(values, TAILS, axis=1).astype(np.float32))


def _check_scale(model: AdaptiveModel, rows: Frames) -> None:
    given = model.attachment.normalization
    found, x = _strangeness(model, rows, given), frames_of(rows)
    seen = x if given is None else (x - _spread(given.mean, x)) / _spread(given.deviation, x)
    channels = seen.movedim(1, 0).flatten(1)
    mean, deviation = float(seen.mean()), float(channels.std(1).mean())
    usual = abs(mean) <= MEAN and DEVIATIONS[0] <= deviation <= DEVIATIONS[1]
    if usual and found <= FAR:
        return
    remedy, left = min(_mistakes(model, rows, given), key=lambda mistake: mistake[1])
    explained = left < min(found, NEAR)
    if not explained and found <= FAR:
        return  # unusual numbers, but the ones that the model was trained on
    raise InputError(
        "source frames",
        f"have mean {mean:.3g} and deviation {deviation:.3g} as the model gets them, which is not "
        "what its first norm has seen in training",
        remedy if explained else "Pass frames, and --mean and --std, as the model was trained with",
    )


def _mistakes(
    model: AdaptiveModel, x: Frames, given: Normalization | None
) -> list[tuple[str, float]]:
    """What would undo each of the usual mistakes, and how strange the frames are then.

    Tried, so that a remedy is true.
    """
    found = []
    if given is not None:
        mean = tuple(v / BYTES for v in given.mean)
        both = Normalization(mean, tuple(v / BYTES for v in given.deviation))
        for other in (both, Normalization(mean, given.deviation)):
            text = " --std ".join(
                ",".join(f"{v:.3g}" for v in each) for each in vars(other).values()
            )
            remedy = f"--mean and --std are for 0 to 255, frames are 0 to 1: pass --mean {text}"
            found.append((remedy, _strangeness(model, x, other)))
    divided = "Divide the frames by 255, or save them as uint8, which is divided by 255"
    found.append((divided, _strangeness(model, with_frames(x, frames_of(x) / BYTES), given)))
    if given is None:
        bytes_meant = Normalization((0.0,), (1 / BYTES,))
        remedy = f"The model was trained on 0 to 255: pass --mean 0 --std {1 / BYTES:.3g}"
        found.append((remedy, _strangeness(model, x, bytes_meant)))
    return found


def _strangeness(model: AdaptiveModel, x: Frames, normalization: Normalization | None) -> float:
    """How far frames lie from what the first norm knows.

    In deviations, or as a ratio of them; zero where no layer of its own tells.
    """
    norm, seen, own = model.key_norm, list[Tensor](), model.attachment
    if norm is None or isinstance(norm, IdentityNorm):  # it knows nothing but these very frames
        return 0.0
    handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.attachment = replace(own, normalization=normalization)
    try:
        with torch.no_grad():
            for chunk in split(x, CHUNK):
                model(chunk)  # not the frozen model alone, which does not call a norm that is kept
    finally:
        handle.remove()
        model.attachment = own
    values = torch.cat(seen).movedim(norm.axis, 0).flatten(1)
    deviation = (norm.var + norm.epsilon).sqrt()
    distance = ((values.mean(1) - norm.mean) / deviation).abs().median()
    ratio = (values.std(1) / deviation).log().median().exp()
    return float(torch.stack([distance, ratio, 1 / ratio]).max())


def _check_decision(model: AdaptiveModel, x: Frames, labels: Tensor) -> None:
    """A single output may as well be of a regression, or have its cut elsewhere: labels tell."""
    with torch.no_grad():
        answers = torch.cat([model.frozen_logits(chunk).argmax(1) for chunk in split(x, CHUNK)])
    right = [(answers[labels == c] == c).float().mean() for c in (0, 1) if (labels == c).any()]
    share = float(torch.stack(right).mean())
    if share <= 0.5 + len(x) ** -0.5:
        cut = "0" if model.attachment.outputs == "one logit" else "0.5"
        raise InputError(
            "the model's single output",
            f"is right on {share:.0%} of the labelled source frames if class 1 is what lies above "
            f"{cut}, no better than chance",
            "Check that labels are 0 and 1 in the model's order; if the cut lies elsewhere, or the "
            "output is no logit, let the model return two logits",
        )


def _spread(values: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(values).view(1, -1, *[1] * (x.dim() - 2))
