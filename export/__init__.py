"""From an adaptive model to a bundle: tracing, lowering, ONNX, parity check."""

from edgemem.export.bundle_writer import export_bundle
from edgemem.export.choices import Choices
from edgemem.export.objective import Loss, Objective
from edgemem.export.parity import Parity

__all__ = ["Choices", "Loss", "Objective", "Parity", "export_bundle"]
