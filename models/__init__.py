"""The train side (torch): meta networks, warm-up, checkpoints, small reference networks."""

from edgemem.models.adaptive import AdaptiveModel
from edgemem.models.adaptive_checkpoint import load_adaptive, save_adaptive
from edgemem.models.attach import attach
from edgemem.models.attachment import Normalization
from edgemem.models.checkpoint import load_into
from edgemem.models.meta_network import Form
from edgemem.models.outputs import Output
from edgemem.models.source_keys import observe_source
from edgemem.models.warm_up import warm_up
from edgemem.models.warm_up_recipe import Progress, Recipe

__all__ = [
    "AdaptiveModel",
    "Form",
    "Normalization",
    "Output",
    "Progress",
    "Recipe",
    "attach",
    "load_adaptive",
    "load_into",
    "observe_source",
    "save_adaptive",
    "warm_up",
]
