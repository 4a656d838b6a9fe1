"""`given_model`: whatever a user has, as a network of torch and what is known of it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgemem.errors import InputError, MissingExtraError
from edgemem.files.atomic import sha256_file
from edgemem.models.adaptive.attachment import Normalization
from edgemem.models.checkpoints.adaptive_checkpoint import is_adaptive
from edgemem.models.checkpoints.checkpoint_kinds import kind_of
from edgemem.models.given_models.factory import Say, build_model, load_weights
from edgemem.models.given_models.file_kinds import file_kind, refuse_foreign
from edgemem.models.given_models.named_models import is_named, named_model
from edgemem.models.given_models.prototype_network import prototype_network, recorded_target
from edgemem.models.prototypes.prototype_checkpoint import is_prototypes

OWN_NETWORKS = "edgemem.models.networks:"


@dataclass(frozen=True)
class Given:
    """A model with its weights.

    Attributes:
        network: in eval mode; `input_shape` is an attribute of it where it is known.
        model: what it was made with, kept in the bundle.
        sha256: of the checkpoint; of a folder, of its weights' hashes where there are several.
        normalization, labels: where the file tells them.
    """

    network: nn.Module
    model: str
    sha256: str
    arguments: tuple[str, ...] = ()
    normalization: Normalization | None = None
    labels: tuple[str, ...] | None = None


def given_model(
    checkpoint: Path,
    target: str | None,
    arguments: Sequence[str],
    input_shape: tuple[int, ...] | None,
    say: Say,
    frames_input: str | None = None,
    open_shape: Callable[[], tuple[int, ...]] | None = None,
) -> Given:
    """The model of a checkpoint.

    target: `package.module:factory`, `timm:NAME`, `torchvision:NAME`, or a file with the model in
    it; None where the checkpoint tells all. Of a checkpoint of ours that is warmed up, the network
    is without its weights. input_shape: for a file that leaves sizes open. frames_input: which
    input of an ONNX file the frames are. open_shape: what tells the shape that a file leaves open.

    Raises:
        CheckpointError, InputError, MissingExtraError: see `load_onnx`, `load_folder`,
            `named_model`, `build_model`, `load_into`.
    """
    kind = file_kind(checkpoint)
    if kind != "weights":
        if target is not None:
            raise InputError(
                f"--model {target}", f"is in {checkpoint.name} already", "Leave it out"
            )
        return _from_file(checkpoint, input_shape, frames_input, open_shape)
    if frames_input is not None:
        reason = f"has no place: {checkpoint.name} is no ONNX file"
        raise InputError("--frames-input", reason, "Leave it out")
    adaptive, prototypes = is_adaptive(checkpoint), is_prototypes(checkpoint)
    if target is None:
        refuse_foreign(checkpoint)
        target, arguments = _recorded(checkpoint, known=adaptive or prototypes)
    given = _architecture(checkpoint, target, arguments, input_shape, say)
    if prototypes:
        network, labels = prototype_network(checkpoint, given.network)
        return replace(given, network=network, labels=labels)
    if not adaptive:
        load_weights(given.network, checkpoint, say)
    return given


def _architecture(
    checkpoint: Path,
    target: str,
    arguments: Sequence[str],
    input_shape: tuple[int, ...] | None,
    say: Say,
) -> Given:
    path = Path(target)
    if ":" not in target and path.exists() and file_kind(path) != "weights":
        return replace(_from_file(path, input_shape), sha256=_sha256(checkpoint))
    if is_named(target):
        network = named_model(target, arguments, checkpoint, say)
    else:
        network = build_model(target, arguments)
    return Given(network, target, _sha256(checkpoint), tuple(arguments))


def _from_file(
    path: Path,
    input_shape: tuple[int, ...] | None,
    frames_input: str | None = None,
    open_shape: Callable[[], tuple[int, ...]] | None = None,
) -> Given:
    if path.is_dir():
        if frames_input is not None:
            raise InputError("--frames-input", "has no place: the folder tells", "Leave it out")
        from edgemem.models.given_models.hugging_face import load_folder

        folder = load_folder(path, input_shape)
        if folder.input_shape is not None:
            folder.network.input_shape = folder.input_shape  # type: ignore[assignment]
        known = folder.normalization
        return Given(folder.network, path.name, _sha256(path), (), known, folder.labels)
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("onnx", "export")
    from edgemem.models.onnx_files.onnx_model import load_onnx

    network, labels = load_onnx(path, input_shape, frames_input, open_shape)
    return Given(network, path.name, _sha256(path), labels=labels)


def _sha256(path: Path) -> str:
    if not path.is_dir():
        return sha256_file(path)
    each = [sha256_file(file) for file in sorted(path.glob("*.safetensors"))]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _recorded(checkpoint: Path, *, known: bool) -> tuple[str, list[str]]:
    """What a checkpoint of ours was made with, where that is a network of a package.

    Other code is not imported by its name in a file.
    """
    kind_of(checkpoint)  # which says what is no checkpoint at all
    made_with, arguments = recorded_target(checkpoint) if known else ("", [])
    if made_with.startswith(OWN_NETWORKS) or is_named(made_with):
        return made_with, arguments
    what = f"; it was made with {made_with}" if made_with else ""
    raise InputError(
        "--model",
        f"is missing, and {checkpoint.name} does not say what model it is of{what}",
        "Pass package.module:factory, timm:NAME or torchvision:NAME; an ONNX file or a folder of "
        "Hugging Face needs none",
    )
