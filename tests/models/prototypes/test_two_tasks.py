"""Two tasks on the same frames: what distillation keeps, and what is lost without it.

Task 0 asks for the column of a point in a grid of clusters, task 1 for its row. Contrastive
learning of rows draws columns together; nothing but the relations to old prototypes speaks against
that.
"""

import numpy as np
import pytest

from edgemem.models.prototypes import TaskRecipe, learn_task

pytestmark = pytest.mark.slow

CHANCE = 1 / 3
# Prototypes get a larger rate than the default: a task has some 400 steps here, not 40,000.
COMMON = {"batch_size": 64, "prototype_rate": 0.1}


@pytest.fixture(scope="module", params=[0, 1, 2])
def first_task(request, new_model, grid):
    """A model that knows columns, the seed, and frames to learn from and to test on."""
    seed = request.param
    train, test = grid(360, 2 * seed), grid(360, 2 * seed + 1)
    recipe = TaskRecipe(epochs=20, seed=seed, **COMMON)
    return learn_task(new_model(seed), train[0], train[2], recipe), seed, train, test


def accuracies(model, test):
    frames, row, column = test
    columns, rows = (model.predict(frames, task) for task in model.tasks)
    return np.mean(columns == column), np.mean(rows == 3 + row)


@pytest.mark.parametrize("axis", ["samples", "prototypes"])
def test_distillation_keeps_what_fine_tuning_forgets(first_task, axis):
    model, seed, train, test = first_task
    before = np.mean(model.predict(test[0]) == test[2])
    learnt = {}
    for name, weight in (("fine-tuned", 0.0), ("distilled", 4.0)):
        recipe = TaskRecipe(
            epochs=60, seed=seed, relation_weight=weight, relation_axis=axis, **COMMON
        )
        learnt[name] = accuracies(learn_task(model, train[0], 3 + train[1], recipe), test)
    assert before > 0.9
    assert learnt["fine-tuned"][0] < CHANCE + 0.2 and learnt["fine-tuned"][1] > 0.9
    assert learnt["distilled"][0] > 0.8 and learnt["distilled"][1] > 0.6
