"""The train side (torch): meta networks, warm-up, checkpoints, small reference networks."""

from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.adaptive.attach import attach
from edgemem.models.adaptive.attachment import Normalization
from edgemem.models.adaptive.meta_network import Form
from edgemem.models.adaptive.outputs import Output
from edgemem.models.checkpoints.adaptive_checkpoint import load_adaptive, save_adaptive
from edgemem.models.checkpoints.checkpoint import load_into
from edgemem.models.sites.aligned_model import align
from edgemem.models.sites.choosing import ChosenSites
from edgemem.models.sites.measuring import measure_source
from edgemem.models.warmup.source_keys import observe_source
from edgemem.models.warmup.warm_up import warm_up
from edgemem.models.warmup.warm_up_recipe import Progress, Recipe

__all__ = [
    "AdaptiveModel",
    "ChosenSites",
    "Form",
    "Normalization",
    "Output",
    "Progress",
    "Recipe",
    "align",
    "attach",
    "load_adaptive",
    "load_into",
    "measure_source",
    "observe_source",
    "save_adaptive",
    "warm_up",
]
