"""`edgemem export`: from a checkpoint on disk to a bundle on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgemem.errors import ExportError
from edgemem.export.bundle_writer import export_bundle
from edgemem.export.checks.parity_result import Parity
from edgemem.export.choices import MOST_VALUES, Choices, settled
from edgemem.export.frame_sizes import check_sizes
from edgemem.models.input_sizes import shapes_of
from edgemem.models.model_options import AttachSettings, load_model
from edgemem.models.onnx_files.network import OnnxNetwork
from edgemem.models.onnx_files.onnx_model import compare_sizes


def export_checkpoint(
    checkpoint: Path,
    target: str | None,
    arguments: Sequence[str],
    settings: AttachSettings,
    choices: Choices,
    out: Path,
    report: Callable[[str], None],
    say: Callable[[str], None] = lambda line: None,
) -> Parity:
    """Export; returns the figures of the parity check."""
    adaptive, source = load_model(
        checkpoint, target, arguments, settings, say, batch=choices.batch, note=report
    )
    # Moments alone may go on from one context to the next.
    own = adaptive.attachment.task == "classes"
    if own and adaptive.attachment.statistics == "remembered" and adaptive.source_moments is None:
        raise ExportError(
            "--statistics remembered",
            "needs contexts, and without source frames none can be told apart",
            "Pass --source, run edgemem warmup first, or use --statistics mix",
        )
    if settings.sizes is not None:
        shapes = shapes_of(settings.sizes, adaptive.attachment.input_shape)
        choices = replace(choices, sizes=shapes)
        first = adaptive.attachment.input_shape
        check_sizes(first, shapes, choices.batch, MOST_VALUES)
        if isinstance(adaptive.untouched, OnnxNetwork):
            file = checkpoint if target is None else Path(target)
            compare_sizes(file, first, shapes, settings.frames_input)
    choices = settled(adaptive, choices)
    learns = choices.objective != "statistics"
    if settings.norm_affine is None and choices.gradient == "full" and learns:
        adaptive.add_norm_affine()
    return export_bundle(adaptive, out, choices, source=source, report=report)
