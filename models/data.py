"""Source data for warm-up: an .npz with x and y, or a folder of class folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.errors import InputError, MissingExtraError

Frames = NDArray[np.uint8] | NDArray[np.float32]


def to_float(frames: Frames) -> Tensor:
    """Frames as a model takes them: uint8 divided by 255, else float32."""
    x = torch.from_numpy(np.ascontiguousarray(frames))
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def load_dataset(path: Path) -> tuple[Frames, NDArray[np.int64]]:
    """Frames [n, c, ...] (uint8 0–255, or float32) and labels [n].

    In a folder, class folders are numbered in alphabetical order; images must share one size.

    Raises:
        InputError: missing, damaged, empty, or not of these forms.
    """
    frames, labels = _load_folder(path) if path.is_dir() else _load_npz(path)
    if frames.ndim < 2 or (frames.dtype != np.uint8 and frames.dtype.kind != "f"):
        raise InputError(
            f"{path}: x",
            f"is {frames.dtype}{list(frames.shape)}, not frames [n, channels, ...]",
            "Save frames as uint8 or float32, channels first",
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise InputError(
            f"{path}: y",
            f"is {labels.dtype}{list(labels.shape)}, not one class index per frame",
            "Number the classes from 0 in the model's order",
        )
    if len(frames) == 0:
        raise InputError(str(path), "holds no frames", "Pass source data with at least one batch")
    if len(frames) != len(labels):
        raise InputError(
            str(path),
            f"has {len(frames)} frames but {len(labels)} labels",
            "Save x and y of equal length",
        )
    if frames.dtype != np.uint8:
        with np.errstate(over="ignore"):  # infinite then, and refused
            frames = frames.astype(np.float32)
        if not np.isfinite(frames).all():
            raise InputError(f"{path}: x", "holds NaN or infinite values", "Remove those frames")
    return frames, labels.astype(np.int64)


def _load_npz(path: Path) -> tuple[Frames, NDArray[np.int64]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return data["x"], data["y"]
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist", "Check the path") from error
    except Exception as error:  # damaged files make zip and zlib fail in every way there is
        raise InputError(
            str(path),
            f"is not an .npz file with x and y ({error})",
            "Save it with numpy.savez(path, x=frames, y=labels)",
        ) from error


def _load_folder(folder: Path) -> tuple[Frames, NDArray[np.int64]]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("Pillow", "train") from error
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    for label, class_folder in enumerate(classes):
        for path in sorted(class_folder.iterdir()):
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise InputError(str(path), "is not a readable image", "Remove it") from error
            if images and pixels.shape != images[0].shape:
                raise InputError(
                    str(path),
                    f"has size {pixels.shape[:2]}, the first image {images[0].shape[:2]}",
                    "Resize all images to the model's input size",
                )
            images.append(pixels)
            labels.append(label)
    if not images:
        raise InputError(str(folder), "holds no class folders with images", "See warmup --help")
    stacked: NDArray[np.uint8] = np.stack(images).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked), np.asarray(labels, np.int64)
