"""Loads CIFAR-10 and the networks trained on it from the folder of benchmark data."""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZE = 32
TILES = 50
CHECKPOINTS = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th"}


def data_folder() -> Path | None:
    """Where the benchmark data lies: $EDGEMEM_DATA, else ../shared/data, else None."""
    named = os.environ.get("EDGEMEM_DATA")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return beside if beside.is_dir() else None


def frost_folder(folder: Path) -> Path:
    """The frost overlays of the CIFAR-10-C recipe."""
    return folder / "cifar10c" / "frost"


def load_cifar10(
    folder: Path, split: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [n, 32, 32, 3] and labels [n], in the stored (shuffled) order."""
    mosaics = sorted((folder / "cifar10").glob(f"{split}_*.webp"))
    if not mosaics:
        raise FileNotFoundError(f"no {split}_*.webp in {folder / 'cifar10'}")
    images = np.concatenate([_read_mosaic(path) for path in mosaics])
    with np.load(folder / "cifar10" / "labels.npz") as labels:
        return images, labels[f"y_{split}"].astype(np.int64)


def load_test_jpeg(folder: Path) -> NDArray[np.uint8]:
    """The test images after a lossy JPEG file, in the order of the test split."""
    with np.load(folder / "cifar10" / "test_jpeg.npz") as stored:
        data, ends = stored["bytes"].tobytes(), stored["offsets"]
    return np.stack([_decode(data[start:stop]) for start, stop in pairwise(ends)])


def resnet_checkpoint(folder: Path, depth: Literal[20, 32]) -> Path:
    """The torch checkpoint of a CIFAR-10 ResNet by others; its keys start with `module.`."""
    return folder / "models" / "cifar10_resnets" / CHECKPOINTS[depth]


def _read_mosaic(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    tiles = pixels.reshape(TILES, SIZE, TILES, SIZE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, SIZE, SIZE, 3)


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
