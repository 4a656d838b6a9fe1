"""From an adaptive model to a bundle: tracing, lowering, ONNX, parity check."""

from edgemem.export.bundle_writer import export_bundle
from edgemem.export.checks.parity_result import Parity
from edgemem.export.choices import Choices
from edgemem.export.functions.objective import Loss, Objective

__all__ = ["Choices", "Loss", "Objective", "Parity", "export_bundle"]
