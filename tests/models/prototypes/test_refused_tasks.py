"""Tasks that cannot be learnt: data, recipes and progress that do not fit are refused."""

import dataclasses
import json

import pytest
from two_tasks import RECIPE, STEPS, Interruption, interrupt, second

from edgemem.errors import CheckpointError, InputError
from edgemem.models.prototypes import (
    TaskRecipe,
    learn_task,
)


def test_the_progress_of_other_settings_is_refused(known, new_model, data, tmp_path):
    resume = tmp_path / "progress.safetensors"
    with pytest.raises(Interruption):
        second(known, data, progress=interrupt(STEPS + 1), resume=resume)
    before = resume.read_bytes()
    frames, _, labels = data
    others = (
        (known, frames, labels, dataclasses.replace(RECIPE, relation_axis="prototypes")),
        (known, frames, labels[::-1].copy(), RECIPE),
        (known, frames, labels + 1, RECIPE),
        (known, frames[::-1].copy(), labels, RECIPE),
        (new_model(), frames, labels, RECIPE),
        (learn_task(new_model(1), frames, data[1], RECIPE), frames, labels, RECIPE),
    )
    for arguments in others:
        with pytest.raises(CheckpointError, match="other data, model or recipe"):
            learn_task(*arguments, resume=resume)
    assert resume.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_damaged_progress_file_is_refused(keep, known, data, tmp_path):
    resume = tmp_path / "progress.safetensors"
    with pytest.raises(Interruption):
        second(known, data, progress=interrupt(STEPS + 1), resume=resume)
    resume.write_bytes(resume.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"progress\.safetensors"):
        second(known, data, resume=resume)


BAD_DATA = {
    "start at -1": lambda x, y: (x, y - 4),
    "learnt in an earlier task": lambda x, y: (x, y - 2),
    r"float64\[48\]": lambda x, y: (x, y.astype(float)),
    r"int64\[47\] for 48 frames": lambda x, y: (x, y[1:]),
    "has no frames": lambda x, y: (x[:0], y[:0]),
}


@pytest.mark.parametrize("message", BAD_DATA)
def test_data_that_does_not_fit_is_refused(message, known, data):
    with pytest.raises(InputError, match=message):
        learn_task(known, *BAD_DATA[message](data[0], data[2]), RECIPE)


def test_a_loss_that_is_not_finite_ends_it(known, data):
    with pytest.raises(InputError, match=r"the loss is not finite.*Lower the learning rate"):
        second(known, data, dataclasses.replace(RECIPE, learning_rate=1e30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"seed": -1}, {"learning_rate": -0.1},
        {"prototype_rate": float("nan")}, {"momentum": float("inf")}, {"weight_decay": -1.0},
        {"contrast_temperature": 0.0}, {"relation_temperature": -1.0},
        {"prototype_weight": -2.0}, {"relation_weight": float("nan")},
        {"rate_at_end": -0.1}, {"rate_at_end": 1.5}, {"rate_at_end": float("nan")},
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="is out of range"):
        TaskRecipe(**wrong)


def test_an_unknown_axis_is_refused():
    with pytest.raises(InputError, match="relation axis 'classes'"):
        TaskRecipe(relation_axis="classes")


def test_the_defaults_are_those_of_the_released_code():
    assert json.loads(json.dumps(dataclasses.asdict(TaskRecipe()))) == {
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "prototype_rate": 0.01,
        "contrast_temperature": 0.1,
        "prototype_weight": 2.0,
        "relation_weight": 4.0,
        "relation_temperature": 1.0,
        "relation_axis": "samples",
        "rate_at_end": 1.0,
        "seed": 0,
    }
