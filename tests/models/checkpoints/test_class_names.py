"""Class folders and a model's classes: stored, compared, and never shifted without a word."""

import numpy as np
import pytest
import torch
from PIL import Image

from edgemem.errors import InputError
from edgemem.models import Recipe
from edgemem.models.checkpoints.adaptive_checkpoint import load_adaptive
from edgemem.models.model_options import AttachSettings
from edgemem.models.networks import resnet20
from edgemem.models.warmup.warm_up_command import warm_up_checkpoint

TARGET, CLASSES = "edgemem.models.networks:resnet20", ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path, lively):
    """A checkpoint for three classes beside folders of pictures."""
    torch.save(lively(resnet20(classes=3)).state_dict(), tmp_path / "net.pt")
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path


def warm(folder, names=None, said=None):
    out = folder / "warm.safetensors"
    settings = AttachSettings("layer1[0:1]", "remembered", "3,32,32")
    warm_up_checkpoint(
        folder / "net.pt", TARGET, ["classes=3"], settings, folder / "images", out,
        Recipe(1, 2), lambda progress: None, 1, names=names,
        say=[].append if said is None else said.append,
    )  # fmt: skip
    return load_adaptive(out, resnet20(classes=3))[0]


def test_names_of_folders_are_kept_in_the_warm_checkpoint(folder):
    (folder / "images" / ".ipynb_checkpoints").mkdir()
    assert warm(folder).labels == CLASSES


def test_a_class_without_pictures_is_kept_when_its_folder_is_there(folder):
    for path in (folder / "images" / "bee").iterdir():
        path.unlink()
    assert warm(folder).labels == CLASSES


def test_fewer_folders_than_classes_are_refused_unless_all_are_named(folder):
    for path in (folder / "images" / "bee").iterdir():
        path.unlink()
    (folder / "images" / "bee").rmdir()
    with pytest.raises(InputError, match=r"has 2 class folders \(ant, cat\), the model has 3"):
        warm(folder)
    assert not (folder / "warm.safetensors").exists()
    assert warm(folder, CLASSES).labels == CLASSES  # as the remedy says


def test_names_that_do_not_fit_are_refused(folder):
    with pytest.raises(InputError, match="are 2 names for 3 classes"):
        warm(folder, ("ant", "bee"))
    with pytest.raises(InputError, match="cat: is not one of the classes ant, bee, dog"):
        warm(folder, ("ant", "bee", "dog"))


def test_arrays_have_no_names(folder):
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    np.savez(folder / "train.npz", x=x, y=np.arange(4) % 3)
    (folder / "images").rename(folder / "others")
    (folder / "train.npz").rename(folder / "images")
    assert warm(folder).labels is None


def test_what_was_taken_from_a_checkpoint_is_said(folder):
    state = torch.load(folder / "net.pt", weights_only=True)
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"model": state, "model_ema": zeros}, folder / "net.pt")
    said = []
    warm(folder, said=said)
    assert said == ["net.pt: took 'model'; also there, not taken: 'model_ema'"]
