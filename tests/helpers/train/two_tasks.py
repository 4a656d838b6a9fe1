"""A second task, learnt after a first one, and ways to interrupt it."""

from edgemem.models.prototypes import (
    TaskRecipe,
    learn_task,
)

RECIPE = TaskRecipe(epochs=3, batch_size=16, prototype_rate=0.1)
STEPS = 3  # a pass over the frames


def second(known, data, recipe=RECIPE, **options):
    return learn_task(known, data[0], data[2], recipe, **options)


class Interruption(Exception):
    pass


def interrupt(step):
    """A progress function that fails after so many steps, as a power cut would."""

    def note(progress):
        if progress.step == step:
            raise Interruption

    return note
