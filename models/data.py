"""Source data for warm-up: an .npz with x and y, or a folder of class folders of images."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemem.errors import InputError, MissingExtraError
from edgemem.files.npz import Npz
from edgemem.files.untrusted import require_file
from edgemem.models.tensor_rows import frames_of, of_array, with_frames

Frames = NDArray[np.uint8] | NDArray[np.float32]
LEFTOVERS = ("__MACOSX", "Thumbs.db", "desktop.ini")  # beside hidden ones


def to_float(frames: NDArray[Any]) -> Any:
    """Frames as a model takes them: uint8 divided by 255, else float32; token ids as they are.

    Gives a tensor, or `TensorRows`: what comes beside frames in rows stays as it is.
    """
    given = of_array(frames if frames.dtype.names else np.ascontiguousarray(frames))
    x = frames_of(given)
    if x.dtype == torch.int64:
        return given
    return with_frames(given, x.float() / 255 if x.dtype == torch.uint8 else x.float())


def class_names(path: Path) -> tuple[str, ...] | None:
    """Names of the class folders of a data set, in alphabetical order; None for a file.

    Those without pictures, too. Hidden folders are none.
    """
    return tuple(folder.name for folder in _visible(path) if folder.is_dir()) or None


def load_dataset(
    path: Path, names: Sequence[str] | None = None, *, ids: bool = False
) -> tuple[Frames, NDArray[np.int64]]:
    """Frames [n, c, ...] (uint8 0–255, or float32) and labels [n].

    In a folder, class folders are numbered in alphabetical order, or as `names` lists them; images
    must share one size. Hidden files and folders are left out. ids: token ids (int64) are frames,
    too.

    Raises:
        InputError: missing, damaged, empty, not of these forms, or with a folder that is not named.
    """
    frames, labels = _load_folder(path, names) if path.is_dir() else _load_npz(path)
    frames = _usable(frames, path, ids=ids)
    refuse_several_labels(f"{path}: y", labels)
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise InputError(
            f"{path}: y",
            f"is {labels.dtype}{list(labels.shape)}, not one class index per frame",
            "Number the classes from 0 in the model's order",
        )
    if len(frames) != len(labels):
        raise InputError(
            str(path),
            f"has {len(frames)} frames but {len(labels)} labels",
            "Save x and y of equal length",
        )
    return frames, labels.astype(np.int64)


def load_frames(path: Path, *, ids: bool = False) -> tuple[Frames, NDArray[np.int64] | None]:
    """Frames as `load_dataset` has them, and their labels [n] where the data has any.

    An .npz may hold x alone, and a folder may hold images without class folders.

    Raises:
        InputError: as `load_dataset`.
    """
    if path.is_dir() and class_names(path) is None:
        images = _images([(image, 0) for image in _visible(path)])
        return _usable(_channels_first(path, [pixels for pixels, _ in images]), path), None
    if not path.is_dir():
        archive = Npz(
            path, "is not an .npz file with x", "Save it with numpy.savez(path, x=frames)"
        )
        if "y" not in archive.names:
            frames = archive.array("x", memory_limit(), "Use fewer frames")
            return _usable(frames, path, ids=ids), None
    return load_dataset(path, ids=ids)


def load_beside(
    path: Path, names: Sequence[str], *, needed: bool = False
) -> dict[str, NDArray[Any]]:
    """Arrays of these names that an .npz holds beside x, one row for each frame; none of a folder.

    needed: whether the model cannot do without.

    Raises:
        InputError: damaged, not one row for each frame, or missing.
    """
    if not names or (path.is_dir() and not needed):
        return {}
    if path.is_dir():
        raise InputError(
            str(path), f"holds pictures alone, and the model takes {', '.join(names)} beside them",
            "Save an .npz with x and arrays of those names",
        )  # fmt: skip
    archive = Npz(path, "is not an .npz file with x", "Save it with numpy.savez(path, x=frames)")
    frames, found = archive.header("x").shape[0], {}
    for name in names:
        if name not in archive.names and needed:
            raise InputError(
                f"{path}: {name}",
                "is missing, and the model takes it beside the frames",
                f"Save it beside x: numpy.savez(path, x=frames, {name}=array)",
            )
        if name not in archive.names:
            continue
        array = archive.array(name, memory_limit(), "Use fewer frames")
        if array.shape[:1] != (frames,):
            reason = f"has shape {list(array.shape)} beside {frames} frames"
            raise InputError(f"{path}: {name}", reason, "Save one row for each frame")
        found[name] = array
    return found


def _usable(frames: NDArray[Any], path: Path, *, ids: bool = False) -> Frames:
    """Frames as uint8 or float32; raises InputError where they are none. ids: or int64."""
    if ids and frames.dtype == np.int64 and frames.ndim > 1 and len(frames):
        return frames
    if frames.ndim < 2 or (frames.dtype != np.uint8 and frames.dtype.kind != "f"):
        raise InputError(
            f"{path}: x",
            f"is {frames.dtype}{list(frames.shape)}, not frames [n, channels, ...]",
            "Save frames as uint8 or float32, channels first",
        )
    if len(frames) == 0:
        raise InputError(str(path), "holds no frames", "Pass source data with at least one batch")
    if frames.dtype != np.uint8:
        with np.errstate(over="ignore"):  # infinite then, and refused
            frames = frames.astype(np.float32)
        if not np.isfinite(frames).all():
            raise InputError(f"{path}: x", "holds NaN or infinite values", "Remove those frames")
    return frames


def refuse_several_labels(thing: str, labels: NDArray[Any]) -> None:
    """Refuse labels of multi-label models by name; raises InputError."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise InputError(
            thing,
            f"is {labels.dtype}{list(labels.shape)}: several labels a frame. EdgeMem adapts "
            "classifiers whose classes exclude each other, not multi-label models",
            "If the rows are one-hot, pass their argmax(1)",
        )


def memory_limit() -> int:
    """Bytes that a data set may take: half of the memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not a system that says
        return 8 << 30


def _load_npz(path: Path) -> tuple[Frames, NDArray[np.int64]]:
    remedy = "Save it with numpy.savez(path, x=frames, y=labels)"
    archive, most = Npz(path, "is not an .npz file with x and y", remedy), memory_limit()
    frames, labels = (archive.array(name, most, "Use fewer frames") for name in ("x", "y"))
    return frames, labels


def _visible(folder: Path) -> list[Path]:
    """What people put into a folder, sorted: not what editors and systems leave there."""
    if not folder.is_dir():
        return []
    try:
        return sorted(
            p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in LEFTOVERS
        )
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise InputError(str(folder), reason, "Check the path and its permissions") from error


def _load_folder(folder: Path, names: Sequence[str] | None) -> tuple[Frames, NDArray[np.int64]]:
    own = class_names(folder) or ()
    names = own if names is None else names
    if unknown := [name for name in own if name not in names]:
        raise InputError(
            str(folder / unknown[0]),
            f"is not one of the classes {', '.join(names)}",
            "Rename the folder, or name all classes",
        )
    files = [(image, names.index(name)) for name in own for image in _visible(folder / name)]
    images = _images(files)
    labels = np.asarray([label for _, label in images], np.int64)
    return _channels_first(folder, [pixels for pixels, _ in images]), labels


def _images(files: Sequence[tuple[Path, int]]) -> list[tuple[NDArray[np.uint8], int]]:
    """Pixels [h, w, 3] of pictures of one size, with the number that came with each."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("Pillow", "train")
    found: list[tuple[NDArray[np.uint8], int]] = []
    left = memory_limit()
    for path, number in files:
        pixels = _pixels(path, left, found[0][0].shape[:2] if found else None)
        left -= pixels.nbytes
        found.append((pixels, number))
    return found


def _channels_first(folder: Path, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if not images:
        raise InputError(str(folder), "holds no class folders with images", "See warmup --help")
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def _pixels(path: Path, most_bytes: int, size: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Pixels [h, w, 3] of one picture. Its size is looked at before it is unpacked.

    size: height and width that it must have; None = any.
    """
    from PIL import Image

    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of large pictures, which are refused here
            with Image.open(path) as image:
                found = (image.height, image.width)
                if size not in (None, found):
                    raise InputError(
                        str(path),
                        f"has size {found}, the first image {size}",
                        "Resize all images to the model's input size",
                    )
                if 3 * image.height * image.width > most_bytes:
                    reason = f"of {found} pixels is one picture more than memory should hold"
                    raise InputError(str(path), reason, "Use fewer or smaller pictures")
                return np.asarray(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # damaged pictures make decoders fail in every way there is
        raise InputError(str(path), "is not a readable image", "Remove it") from error
