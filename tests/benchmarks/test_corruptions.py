import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.shared.cifar import (
    MEAN,
    STD,
    data_folder,
    frost_folder,
    load_cifar10,
    resnet_checkpoint,
)
from benchmarks.shared.corruptions import CORRUPTIONS, LEVELS, corrupt
from edgemem.models.networks.cifar_resnet import resnet20

pytestmark = pytest.mark.slow

BATCH = 200
FRAMES = 500

needs_data = pytest.mark.skipif(
    data_folder() is None, reason="needs the benchmark data: set EDGEMEM_DATA"
)


@pytest.fixture
def frost(tmp_path):
    pixels = np.random.default_rng(1)
    for number in range(1, 6):
        picture = Image.fromarray(pixels.integers(0, 256, (200, 240, 3), np.uint8))
        picture.save(tmp_path / f"frost{number}.{'png' if number <= 3 else 'jpg'}")
    return tmp_path


@pytest.fixture
def frames():
    """Four smooth images with an edge, so that blurs and shifts show."""
    ramp = np.linspace(40, 200, 32)
    images = np.broadcast_to(ramp[:, None, None], (4, 32, 32, 3)).copy()
    images[:, 8:20, 10:22] += np.array([50.0, -30.0, 10.0])
    return images.astype(np.uint8)


def test_there_are_fifteen_with_five_levels():
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 15
    assert CORRUPTIONS[0] == "gaussian_noise"
    assert CORRUPTIONS[-1] == "jpeg_compression"
    assert all(len(levels) == 5 for levels in LEVELS.values())


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_keeps_shape_and_changes_pixels(frames, frost, name, severity):
    before = frames.copy()
    result = corrupt(frames, name, severity, frost_folder=frost)
    assert result.shape == frames.shape
    assert result.dtype == np.uint8
    assert (result != frames).any()
    assert (frames == before).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_seed_decides_everything(frames, frost, name):
    one = corrupt(frames, name, seed=3, frost_folder=frost)
    assert (one == corrupt(frames, name, seed=3, frost_folder=frost)).all()
    fixed = {
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
    }
    other = corrupt(frames, name, seed=4, frost_folder=frost)
    assert (one == other).all() == (name in fixed)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_chunk_equals_its_part_of_the_whole(frames, frost, name):
    whole = corrupt(frames, name, frost_folder=frost)
    parts = [
        corrupt(frames[:1], name, frost_folder=frost),
        corrupt(frames[1:], name, frost_folder=frost, first=1),
    ]
    assert (np.concatenate(parts) == whole).all()


def test_glass_blur_leaves_the_first_rows_in_place(frost):
    """The shuffle starts at the third row and column and reaches back by one."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    result = corrupt(frames, "glass_blur", 1, frost_folder=frost)
    assert (np.abs(result[:, :2].astype(int) - frames[:, :2]) <= 1).all()
    assert (np.abs(result[:, 2:].astype(int) - frames[:, 2:]) > 1).any()


def test_brightness_turns_black_grey(frost):
    black = np.zeros((1, 32, 32, 3), np.uint8)
    assert (corrupt(black, "brightness", 5, frost_folder=frost) == int(0.3 * 255)).all()


def test_rejects_what_it_does_not_know(frames, frost):
    with pytest.raises(ValueError, match="unknown corruption 'rain'"):
        corrupt(frames, "rain", frost_folder=frost)
    with pytest.raises(ValueError, match="severity"):
        corrupt(frames, "fog", 6, frost_folder=frost)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(frames / 255, "fog", frost_folder=frost)


def third_party_resnet20(folder):
    stored = torch.load(resnet_checkpoint(folder, 20), map_location="cpu", weights_only=True)
    weights = {name.removeprefix("module."): w for name, w in stored["state_dict"].items()}
    network = resnet20()
    network.load_state_dict(weights)
    return network.eval()


def use_batch_statistics(network, on):
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.train(on)
            layer.momentum = 0.0


@torch.no_grad()
def error(network, images, labels):
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    wrong = 0
    for start in range(0, len(images), BATCH):
        frames = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2) / 255
        found = network((frames - mean) / std).argmax(1).numpy()
        wrong += int((found != labels[start : start + BATCH]).sum())
    return wrong / len(images)


@needs_data
def test_resnet20_errs_as_on_the_published_corruptions():
    """About 0.49 frozen and 0.30 with the statistics of each batch, at severity 5."""
    folder = data_folder()
    images, labels = load_cifar10(folder, "test")
    images, labels = images[:FRAMES], labels[:FRAMES]
    network = third_party_resnet20(folder)
    frozen, batch = [], []
    for name in CORRUPTIONS:
        corrupted = corrupt(images, name, 5, frost_folder=frost_folder(folder))
        use_batch_statistics(network, False)
        frozen.append(error(network, corrupted, labels))
        use_batch_statistics(network, True)
        batch.append(error(network, corrupted, labels))
    assert np.mean(frozen) == pytest.approx(0.49, abs=0.02)
    assert np.mean(batch) == pytest.approx(0.30, abs=0.015)
