"""What a path holds, by its content: what can be opened without torch code, and what cannot."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from edgemem.errors import CheckpointError
from edgemem.files.untrusted import require_file

FileKind = Literal["onnx", "hugging face", "weights"]
Found = tuple[str, str] | None  # a reason and a remedy
HEAD = 1 << 16
CONFIG = "config.json"
BESIDE_VERSION = (b"\x12", b"\x1a", b"\x3a", b"B")  # fields of a model that follow its version
BY_TF2ONNX = "Convert it: python -m tf2onnx.convert {} --opset 17 --output model.onnx"
SAVED_MODEL = BY_TF2ONNX.format("--saved-model {}")
KERAS = f"In Keras, run model.export('saved'). {SAVED_MODEL.format('saved')}"
TFLITE = BY_TF2ONNX.format("--tflite {}")
CORE_ML = "Pass the model that it was made from: nothing leads from Core ML back to weights"
SCRIPT = "is a TorchScript program, whose layers cannot be told apart"
PROGRAM = (
    "is a program of torch.export, which is opened by unpickling objects; running code from a file "
    "is not safe"
)
FROM_PROGRAM = (
    "Make it an ONNX file where it is trusted: "
    "torch.onnx.export(torch.export.load({!r}), dynamo=True).save('model.onnx')"
)
FROM_SCRIPT = (
    "Make it an ONNX file where it is trusted: torch.onnx.export(torch.jit.load({!r}), (frames,), "
    "'model.onnx', dynamo=False, input_names=['x'], dynamic_axes={{'x': {{0: 'n'}}}})"
)


def file_kind(path: Path) -> FileKind:
    """What a file or folder is; "weights" for what a checkpoint's own reader is to look at.

    Raises:
        CheckpointError: missing, or not to be read.
    """
    if path.is_dir():
        return "hugging face" if (path / CONFIG).is_file() else "weights"
    if path.suffix == ".mlmodel":  # which begins as an ONNX model does
        return "weights"
    return "onnx" if path.suffix == ".onnx" or looks_like_onnx(_head(path)) else "weights"


def refuse_foreign(path: Path) -> None:
    """Refuse what holds a model, but none that is opened; says what to do with it.

    Raises:
        CheckpointError: it is of another framework, or a program whose reading runs code.
    """
    if path.is_dir():
        found = _folder(path)
    elif path.suffix == ".mlmodel":
        found = ("is a Core ML model", CORE_ML)
    else:
        head = _head(path)
        found = _archive(path) if head.startswith(b"PK") else _beginning(path, head)
    if found is not None:
        raise CheckpointError(str(path), *found)


def looks_like_onnx(head: bytes) -> bool:
    """Whether a file begins as an ONNX model does: with its version, and who made it."""
    return head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in BESIDE_VERSION


def _head(path: Path) -> bytes:
    require_file(path, CheckpointError)
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "Check it"
        ) from error


def _folder(path: Path) -> Found:
    if (path / "saved_model.pb").is_file():
        return "is a SavedModel of TensorFlow", SAVED_MODEL.format(path.name)
    return ("is a Core ML model", CORE_ML) if path.suffix == ".mlpackage" else None


def _beginning(path: Path, head: bytes) -> Found:
    if head[4:8] == b"TFL3":
        return "is a TFLite model", TFLITE.format(path.name)
    is_keras = head.startswith(b"\x89HDF\r\n\x1a\n")
    return ("is an HDF5 file, as Keras writes them", KERAS) if is_keras else None


def _archive(path: Path) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return None
    ends = {entry.partition("/")[2] for entry in names}
    if "model.weights.h5" in names:
        return "is a Keras model", KERAS
    if "constants.pkl" in ends and any(end.startswith("code/") for end in ends):
        return SCRIPT, FROM_SCRIPT.format(path.name)
    if "archive_format" in ends and "data.pkl" not in ends:
        return PROGRAM, FROM_PROGRAM.format(path.name)
    return None
