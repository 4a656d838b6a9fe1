"""`edgemem export`: from a checkpoint on disk to a bundle on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgemem.errors import ExportError
from edgemem.export.bundle_writer import export_bundle
from edgemem.export.checks.parity import Parity
from edgemem.export.choices import Choices
from edgemem.models.model_options import AttachSettings, load_model


def export_checkpoint(
    checkpoint: Path,
    target: str,
    arguments: Sequence[str],
    settings: AttachSettings,
    choices: Choices,
    out: Path,
    report: Callable[[str], None],
    say: Callable[[str], None] = lambda line: None,
) -> Parity:
    """Export; returns the figures of the parity check."""
    adaptive, source = load_model(checkpoint, target, arguments, settings, say)
    if adaptive.attachment.statistics == "remembered" and adaptive.source_moments is None:
        raise ExportError(
            "--statistics remembered",
            "needs contexts, and this checkpoint was not warmed up, so none could be told apart",
            "Run edgemem warmup first, or use --statistics mix",
        )
    learns = choices.objective != "statistics"
    if settings.norm_affine is None and choices.gradient == "full" and learns:
        adaptive.add_norm_affine()
    return export_bundle(adaptive, out, choices, source=source, report=report)
