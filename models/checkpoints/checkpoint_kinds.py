"""What a file is, by its content: checkpoints that can be read, and others by their name."""

from __future__ import annotations

import argparse
import codecs
import json
import pathlib
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemem.errors import CheckpointError
from edgemem.files.untrusted import require_file

Kind = Literal["safetensors", "pickle"]
HEAD = 1 << 16
LOOKED_AT = 1 << 22
MOST_UNPACKED = 8  # times the size of the file: torch.save does not compress
SAVE = "torch.save(model.state_dict(), 'weights.pt')"
OTHER_FRAMEWORK = (
    "EdgeMem reads weights of torch models: where the torch model is, "
    f"run {SAVE} and pass that file"
)
ORIGINAL = f"Pass the checkpoint that it was made from; if there is none, {SAVE} makes one"
JOIN = (
    "Join them: state = {}; call state.update(safetensors.torch.load_file(shard)) for each, then "
    "safetensors.torch.save_file(state, 'model.safetensors')"
)
PICKLED_LAYERS = (b"torch.nn.modules.", b"torch.fx.graph_module")
# What a file starts with -> what it is, and what to do.
BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": ("is an HDF5 file, as Keras writes them", OTHER_FRAMEWORK),
    b"version https://git-lfs": (
        "is a pointer of git-lfs, not the file itself",
        "Run git lfs pull in that folder",
    ),
    b"<": ("is a web page, not a checkpoint", "Download the file itself"),
    b"\x1f\x8b": ("is compressed by gzip", "Unpack it with gunzip, or tar -xzf"),
    b"\x03\x00\x00\x00\x01\x00\x00\x00": ("is a table of Lua Torch", OTHER_FRAMEWORK),
    b"\x04\x00\x00\x00\x01\x00\x00\x00": ("is an object of Lua Torch", OTHER_FRAMEWORK),
}


def kind_of(path: Path) -> Kind:
    """How a checkpoint is stored, whatever its name ends in.

    Raises CheckpointError for a file that is known to be something else, or that is not there.
    """
    if path.is_dir():
        raise CheckpointError(
            str(path), "is a folder", "Name the file in it, such as model.safetensors"
        )
    require_file(path, CheckpointError)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "Check it"
        ) from error
    if head.startswith(b"PK"):
        _check_zip(path)
        return "pickle"
    if 0 < int.from_bytes(head[:8], "little") < 1 << 40 and head[8:9] == b"{":
        return "safetensors"
    if found := _other(head):
        raise CheckpointError(str(path), *found)
    if path.suffix == ".safetensors" and head[:1] != b"\x80":
        return "safetensors"  # damaged, which its reader says better
    return "pickle"


def is_whole_model(path: Path) -> bool:
    """Whether a pickle holds layers as objects, not only their tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            content = b""
            for name in pickles[:1]:
                with archive.open(name) as file:
                    content = file.read(LOOKED_AT)
    except Exception:  # noqa: BLE001 - not an archive, or a damaged one
        with path.open("rb") as file:
            content = file.read(LOOKED_AT)
    return any(mark in content for mark in PICKLED_LAYERS)


def harmless() -> list[Any]:
    """What training scripts keep beside weights, and what runs no code when unpickled.

    Numbers of numpy, paths, parsed arguments. With their names of numpy 1 and 2.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
        for core in ("core", "_core")
    ]
    dtypes = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    others = [np.ndarray, np.dtype, codecs.encode, argparse.Namespace]
    return [*functions, *dtypes, *others, type(pathlib.Path()), pathlib.PurePosixPath]


def _other(head: bytes) -> tuple[str, str] | None:
    """Reason and remedy for what is no checkpoint of torch."""
    text = head.lstrip()
    for start, found in BEGINNINGS.items():
        if text.startswith(start):
            return found
    if head[4:8] == b"TFL3":
        return "is a TFLite model", ORIGINAL
    if head[257:262] == b"ustar" and not head.startswith(b"\x80"):
        return "is a tar archive", "Unpack it with tar -xf, and pass the checkpoint in it"
    if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return "is an ONNX model", ORIGINAL
    return _json(text) if text.startswith((b"{", b"[")) else None


def _json(text: bytes) -> tuple[str, str]:
    if b'"weight_map"' not in text:
        return "is JSON text, not weights", "Pass the file of weights that lies beside it"
    try:
        shards = sorted(set(json.loads(text)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        shards = []
    count = f"{len(shards)} shards" if shards else "shards"
    return (
        f"is an index of {count}, not weights",
        JOIN,
    )


def _check_zip(path: Path) -> None:
    """Refuse archives that torch.load does not take.

    Raises:
        CheckpointError: TorchScript, an exported program, Keras, or anything else in a zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(about.file_size for about in archive.infolist())
    except Exception:  # noqa: BLE001 - damaged, which torch says better
        return
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends and any(end.startswith("code/") for end in ends):
        raise CheckpointError(
            str(path),
            "is a TorchScript archive: a compiled program, not a checkpoint",
            f"Run torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')",
        )
    if any(end == "archive_format" for end in ends) and "data.pkl" not in ends:
        raise CheckpointError(
            str(path),
            "is a program of torch.export, not a checkpoint",
            f"Run torch.save(dict(torch.export.load({path.name!r}).state_dict), 'weights.pt')",
        )
    if "model.weights.h5" in names:
        raise CheckpointError(str(path), "is a Keras model", OTHER_FRAMEWORK)
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            str(path), "holds arrays of numpy, as a data set does, not weights", "Pass a checkpoint"
        )
    if unpacked > MOST_UNPACKED * path.stat().st_size:
        raise CheckpointError(
            str(path),
            f"unpacks to {unpacked:,} bytes, many times its own size",
            "Save it again with torch.save, which does not compress",
        )
    if "data.pkl" not in ends:
        raise CheckpointError(
            str(path), "is a zip archive without a checkpoint", "Unpack it, and pass what is in it"
        )
