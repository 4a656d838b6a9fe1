"""A rehearsal of the export before a warm-up: what cannot be exported is refused in seconds."""

from __future__ import annotations

import copy
from dataclasses import replace

from edgemem.errors import ExportError
from edgemem.export.checks.parity import check_at_rest
from edgemem.export.checks.way_out import with_way_out
from edgemem.export.choices import Choices, check_choices, frame_spec, functions_of, settled
from edgemem.export.lowering.table import Untraceable
from edgemem.export.tracing.trace import check_traceable, to_onnx
from edgemem.models.adaptive.adaptive_model import AdaptiveModel


def rehearse(model: AdaptiveModel) -> ExportError | None:
    """Trace the graphs that `edgemem export` will make of `model` once it is warm.

    Returns the error of the full gradient, where only the meta gradient can be exported.

    Raises:
        ExportError: neither can.
    """
    choices = settled(model, Choices())
    try:
        _trace(model, choices)
    except ExportError as error:
        if next(model.meta_networks(), None) is None:
            raise
        try:
            _trace(model, replace(choices, gradient="meta"))
        except ExportError:
            raise error from None
        return error
    return None


def _trace(model: AdaptiveModel, choices: Choices) -> None:
    warm = copy.deepcopy(model)
    warm.mark_warm()
    if warm.attachment.statistics == "remembered":
        # What is remembered adds operators of our own, which take long to trace.
        warm.attachment = replace(warm.attachment, statistics="mix")
    if choices.gradient == "full":
        warm.add_norm_affine()
    check_choices(warm, choices)
    frames = frame_spec(warm, choices)
    check_at_rest(warm, frames)
    with warm.learning(choices.learn):
        functions, _ = functions_of(warm, choices, frames)
        for name, check in (("predict", to_onnx), ("adapt", check_traceable)):
            try:
                check(functions[name])
            except Untraceable as error:
                raise with_way_out(error, name, warm, choices, frames, None) from error
