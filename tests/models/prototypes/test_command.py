"""`edgemem train-prototypes`, as a user types it, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemem.accuracy import average_accuracy, figures, read_accuracy
from edgemem.cli import main
from edgemem.errors import CheckpointError, InputError
from edgemem.models.checkpoints.checkpoint import read_tensors, write_tensors
from edgemem.models.data import load_dataset
from edgemem.models.networks import digits
from edgemem.models.prototypes import TaskRecipe
from edgemem.models.prototypes.prototype_checkpoint import is_prototypes, load_prototypes
from edgemem.models.prototypes.train_command import TaskChoices, split_tasks, train_prototypes

TARGET = "edgemem.models.networks:digits"
DIGITS = ("--model", TARGET)
COMMAND = Path(sys.executable).with_name("edgemem")
FAST = (
    "--epochs", "6", "--batch-size", "16", "--prototype-rate", "0.2", "--threads", "1",
)  # fmt: skip
RECIPE = TaskRecipe(epochs=2, batch_size=16)


def run(folder, *arguments):
    """The installed command in a process of its own."""
    command = [COMMAND, "train-prototypes", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )


def textures(count, seed):
    """Flat, striped, banded, chequered and two cornered frames; the texture is the label."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((8, 8))
    each = [0 * row, row % 2, column % 2, (row + column) % 2, row // 4, column // 4]
    labels = np.arange(count) % 6
    noise = rng.integers(0, 100, (count, 1, 8, 8))
    return (noise + 120 * np.stack(each)[labels][:, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lively):
    """A checkpoint, frames of four and of all six classes, and test frames."""
    folder = tmp_path_factory.mktemp("user")
    torch.save(lively(digits()).state_dict(), folder / "digits.pt")
    for name, seed in (("all", 0), ("test", 1)):
        x, y = textures(120, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
        np.savez(folder / f"{name}4.npz", x=x[y < 4], y=y[y < 4])
    np.savez(folder / "wide.npz", x=np.zeros((8, 1, 9, 9), np.uint8), y=np.arange(8))
    return folder


@pytest.mark.slow
def test_classes_are_learnt_task_by_task_and_more_of_them_later(folder):
    first = run(
        folder, "digits.pt", *DIGITS, "--data", "all4.npz", "--test", "test4.npz",
        "--classes-per-task", "2", "--out", "four.safetensors", *FAST, "--json",
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    shown = json.loads(first.stdout)
    assert shown["tasks"] == [[0, 1], [2, 3]]
    assert not list(folder.glob("*progress*")) and not list(folder.glob(".four*"))
    for kind in ("class", "task"):
        matrix = read_accuracy(folder / f"four.by-{kind}.json")
        assert figures(matrix) == shown[f"by_{kind}"]
        assert matrix.tasks == 2 and np.isnan(matrix.values[0, 1])
    by_task = read_accuracy(folder / "four.by-task.json").values
    assert by_task[0, 0] > 0.9 and by_task[1, 1] > 0.9

    model, _, source = load_prototypes(folder / "four.safetensors", digits())
    frames, labels = load_dataset(folder / "test4.npz")
    by_class = read_accuracy(folder / "four.by-class.json")
    assert np.mean(model.predict(frames) == labels) == pytest.approx(average_accuracy(by_class))
    assert source["checkpoint"] == "digits.pt" and str(folder) not in json.dumps(source)

    later = run(
        folder, "four.safetensors", *DIGITS, "--data", "all.npz", "--test", "test.npz",
        "--out", "six.safetensors", *FAST,
    )  # fmt: skip
    assert later.returncode == 0, later.stderr
    assert "learnt classes 4, 5" in later.stdout and "forgetting from best" in later.stdout
    model, _, _ = load_prototypes(folder / "six.safetensors", digits())
    assert model.tasks == ((0, 1), (2, 3), (4, 5))
    # All that was known before is one task.
    values = read_accuracy(folder / "six.by-class.json").values
    assert values.shape == (2, 2)
    assert values[0, 0] == pytest.approx(average_accuracy(by_class))


class Interruption(Exception):
    pass


def train(folder, out, report=lambda *_: None, recipe=RECIPE, **choices):
    given = TaskChoices(**{"classes_per_task": 2, **choices})
    return train_prototypes(
        folder / "digits.pt", TARGET, [], given, folder / "all4.npz", None, out, recipe, report, 0
    )


@pytest.mark.parametrize("at", [(0, 4), (1, 1), (1, 4)])
def test_an_interruption_in_any_task_changes_nothing(folder, trained, tmp_path, at):
    def interrupt(number, count, progress):
        if (number, progress.step) == at:
            raise Interruption

    seen = []
    with pytest.raises(Interruption):
        train(folder, tmp_path / "cut.safetensors", interrupt)
    assert not (tmp_path / "cut.safetensors").exists()
    train(folder, tmp_path / "cut.safetensors", lambda *state: seen.append(state))
    number, count, progress = seen[0]
    assert (number, count) == (at[0], 2) and progress.step == (1 if at[1] == 1 else 4)
    # Not their bytes: the format does not order metadata.
    whole, cut = map(read_tensors, (trained, tmp_path / "cut.safetensors"))
    assert whole[1] == cut[1] and whole[0].keys() == cut[0].keys()
    assert all(value.equal(cut[0][name]) for name, value in whole[0].items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.safetensors"]


def test_frames_are_normalised_before_the_network_and_later_too(folder, tmp_path):
    train(folder, tmp_path / "a.safetensors", mean="0.5", std="0.25")
    model, settings, _ = load_prototypes(tmp_path / "a.safetensors", digits())
    assert settings.normalization.mean == (0.5,) and settings.head == "classifier"
    x = torch.rand(2, 1, 8, 8)
    plain = model.encoder.network((x - 0.5) / 0.25)
    torch.testing.assert_close(model.features(x), plain)
    assert is_prototypes(tmp_path / "a.safetensors")
    assert not is_prototypes(folder / "digits.pt") and not is_prototypes(tmp_path / "b.safetensors")


def test_without_a_head_the_output_itself_is_the_feature(folder, tmp_path):
    train(folder, tmp_path / "a.safetensors", head="")
    model, settings, _ = load_prototypes(tmp_path / "a.safetensors", digits())
    assert (settings.head, model.feature_size) == ("", 10)


def test_classes_are_split_in_order():
    labels = np.array([5, 3, 9, 3, 0, 7])
    assert split_tasks(labels, (), 2) == [[0, 3], [5, 7], [9]]
    assert split_tasks(labels, (3, 0), 0) == [[5, 7, 9]]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"head": "stem"}, "--head stem: is a Sequential, not linear"),
        ({"head": "nose"}, "--head nose: is no layer"),
        ({"classes_per_task": -1}, "is negative"),
        ({"mean": "0.1,0.2"}, "does not fit 1 channels"),
        ({"input_shape": "3,8,8"}, r"frames of \[3, 8, 8\]: do not go through the network"),
    ],
)
def test_choices_that_do_not_fit_are_refused(folder, tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        train(folder, tmp_path / "a.safetensors", **choices)
    assert not list(tmp_path.iterdir())


REFUSALS = {
    r"wide\.npz: has frames of \[1, 9, 9\], the model takes \[1, 8, 8\]": {"--data": "wide.npz"},
    r"test4\.npz: has no frames of class 4": {"--test": "test4.npz"},
    r"out\.pt: must end in \.safetensors": {"--out": "out.pt"},
    r"cannot be written": {"--out": "none/out.safetensors"},
    r"relation axis 'classes': is unknown": {"--relation-axis": "classes"},
    r"epochs 0: is out of range": {"--epochs": "0"},
    r"no\.npz: does not exist": {"--data": "no.npz"},
}


@pytest.mark.parametrize("message", REFUSALS)
def test_bad_options_are_one_sentence_and_exit_2(folder, message, monkeypatch, capsys):
    options = {"--data": "all.npz", "--out": "out.safetensors", "--epochs": "1"}
    pairs = [text for pair in (options | REFUSALS[message]).items() for text in pair]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["edgemem", "train-prototypes", "digits.pt", *DIGITS, *pairs])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    captured = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, captured[-1]) and captured[-1].startswith("edgemem: ")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """What a training writes, once (do not write there)."""
    path = tmp_path_factory.mktemp("trained") / "a.safetensors"
    train(folder, path)
    return path


@pytest.fixture
def learnt(trained, tmp_path):
    return Path(shutil.copy(trained, tmp_path))


@pytest.mark.parametrize("option", ["input_shape", "mean", "std", "head"])
def test_what_a_file_of_prototypes_brings_cannot_be_given_again(folder, learnt, option):
    choices = TaskChoices(**{option: "1"})
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')}: is in a\.safetensors"):
        train_prototypes(
            learnt, TARGET, [], choices, folder / "all.npz", None, learnt, RECIPE, print, 0
        )


def test_frames_of_known_classes_alone_are_refused(folder, learnt):
    with pytest.raises(InputError, match="--data: holds no class that is new"):
        train_prototypes(
            learnt, TARGET, [], TaskChoices(), folder / "all4.npz", None, learnt, RECIPE, print, 0
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tasks", None), ("tasks", "{"), ("tasks", "7"), ("tasks", "[[0, 0]]"), ("encoder", "[]"),
        ("encoder", '{"head": "nose", "normalization": null, "input_shape": [1, 8, 8]}'),
        ("source", "{"),
    ],
)  # fmt: skip
def test_damaged_metadata_is_refused(learnt, field, value):
    tensors, metadata = read_tensors(learnt)
    changed = {name: text for name, text in metadata.items() if name != field}
    write_tensors(learnt, tensors, changed | ({} if value is None else {field: value}))
    with pytest.raises(
        CheckpointError,
        match=r"a\.safetensors: (is not a file|does not fit|tasks: |encoder: |source: )",
    ):
        load_prototypes(learnt, digits())


def test_another_network_is_refused(learnt):
    with pytest.raises(CheckpointError, match=r"does not fit Digits.*--model-arg"):
        load_prototypes(learnt, digits().__class__(width=6))
