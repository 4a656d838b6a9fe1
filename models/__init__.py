"""The train side (torch): meta networks, warm-up, checkpoints, small reference networks."""

from edgemem.models.adaptive import AdaptiveModel, Normalization, Output
from edgemem.models.attach import attach
from edgemem.models.meta_network import Form

__all__ = ["AdaptiveModel", "Form", "Normalization", "Output", "attach"]
