"""The anchor: a language model of Hugging Face transformers, which stays as it is."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemem.errors import AttachError, CheckpointError, MissingExtraError
from edgemem.files.atomic import sha256_file

TOKENIZER = "tokenizer.json"
SAVE = "Save it again where it was made: model.save_pretrained(folder)"
ATTENTION = ("full_attention", "sliding_attention")  # kinds of layers whose masks are known


@dataclass(frozen=True)
class Anchor:
    """A language model in eval mode, and what belongs to it.

    Attributes:
        network: gives logits; float32, without gradients.
        sha256: of its weights, see `weights_hash`.
        tokenizer: the file.
        tokenizer_sha256: of that file.
    """

    network: nn.Module
    sha256: str
    tokenizer: Path
    tokenizer_sha256: str

    @property
    def config(self) -> Any:
        """Of the network, as transformers has it."""
        return self.network.config

    @property
    def context(self) -> int:
        """Most tokens that it takes."""
        return int(self.config.max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        """Numbers of its logits."""
        return int(self.config.vocab_size)

    @property
    def end(self) -> tuple[int, ...]:
        """Ids of the tokens that end a text."""
        settings = getattr(self.network, "generation_config", None)
        found = getattr(settings, "eos_token_id", None)
        found = self.config.eos_token_id if found is None else found
        ids = [] if found is None else found if isinstance(found, list) else [found]
        return tuple(sorted({int(end) for end in ids if 0 <= int(end) < self.vocabulary}))


def load_anchor(folder: Path | str) -> Anchor:
    """Load the language model of a folder, without running code of it or downloading anything.

    Weights are those in safetensors; where there are none, those of the one GGUF file.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: no config, weights or tokenizer, or weights that do not fit.
        AttachError: a network that cannot be continued token by token as here.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "hf")
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(str(folder), "is no folder", "Pass a folder of Hugging Face")
    tokenizer = folder / TOKENIZER
    if not tokenizer.is_file():
        remedy = "Save it where the model was made: tokenizer.save_pretrained(folder)"
        raise CheckpointError(str(folder), f"has no {TOKENIZER}", remedy)
    with _quiet():
        network = _loaded(folder).eval().requires_grad_(False)
    check_network(network)
    return Anchor(network, weights_hash(network), tokenizer, sha256_file(tokenizer))


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all parameters as float32, by name: the same whatever file they were in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def check_network(network: nn.Module) -> None:
    """Check that a network can be continued token by token, as `decode` does it.

    Raises:
        AttachError: it takes other inputs, or has layers of other kinds.
    """
    kind = type(network).__name__
    taken = inspect.signature(network.forward).parameters
    needed = ("input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep")
    if missing := [name for name in needed if name not in taken]:
        raise AttachError(
            kind, f"does not take {missing[0]}", "Use a causal model of transformers 5 or later"
        )
    config: Any = network.config
    if missing := [n for n in ("vocab_size", "max_position_embeddings") if not hasattr(config, n)]:
        raise AttachError(kind, f"has no {missing[0]} in its config", "Use a causal text model")
    kinds = set(getattr(config, "layer_types", None) or ATTENTION)
    if unknown := sorted(kinds - set(ATTENTION)):
        reason = f"has layers of {unknown[0]}; looked for {' and '.join(ATTENTION)}"
        raise AttachError(kind, reason, "Use a model of such layers alone")


@contextmanager
def _quiet() -> Iterator[None]:
    """While active, transformers shows no progress bars of its own."""
    from transformers.utils import logging as named

    logging: Any = named
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = {}
    if not list(folder.glob("*.safetensors")):
        files = sorted(folder.glob("*.gguf"))
        if len(files) != 1:
            reason = f"holds no weights in safetensors, and {len(files)} GGUF files"
            raise CheckpointError(str(folder), reason, SAVE)
        given["gguf_file"] = files[0].name
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=None if given else True,
            **given,
        )
    except Exception as error:  # whatever transformers meets, it is the folder
        reason = f"is no causal language model of transformers ({_first_line(error)})"
        raise CheckpointError(str(folder), reason, SAVE) from error
    found, about = loaded
    if missing := sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]])):
        reason = f"lacks {len(missing)} weights of a {type(found).__name__}, such as {missing[0]!r}"
        raise CheckpointError(str(folder), reason, SAVE)
    network: nn.Module = found
    return network


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
