"""New classes without old samples: prototype-sample relation distillation.

Asadi et al., ICML 2023.
"""

from edgemem.models.prototypes.losses import (
    RelationAxis,
    prototype_loss,
    relation_distillation,
    relation_distillation_of_tasks,
    supervised_contrastive_loss,
)
from edgemem.models.prototypes.model import PrototypeModel
from edgemem.models.prototypes.recipe import TaskProgress, TaskRecipe
from edgemem.models.prototypes.training import learn_task

__all__ = [
    "PrototypeModel",
    "RelationAxis",
    "TaskProgress",
    "TaskRecipe",
    "learn_task",
    "prototype_loss",
    "relation_distillation",
    "relation_distillation_of_tasks",
    "supervised_contrastive_loss",
]
