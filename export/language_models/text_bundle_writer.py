"""`export_language`: a folder of Hugging Face and a bank of memories become a bundle of text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_folder import IN_BUNDLE
from edgemem.block import pack
from edgemem.bundle.copying import check_beside, check_kind, file_records
from edgemem.bundle.manifest_checks import MOST_GRAPH_BYTES
from edgemem.bundle.sealed_document import MANIFEST, TEXT
from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.bundle.text.text_manifest import (
    DECODE,
    TextManifest,
    TextSpec,
    expected_inputs,
    text_to_json,
)
from edgemem.bundle.text.text_opening import MemoryFolder, open_memories, open_text_bundle
from edgemem.errors import BankError, ExportError
from edgemem.export.language_models.decode_graph import Decoder
from edgemem.export.language_models.text_parity import TextParity, check_text_parity
from edgemem.export.tracing.trace import to_onnx
from edgemem.export.weights import FILE as WEIGHTS
from edgemem.export.weights import share_weights, strip_notes
from edgemem.files.atomic import explain_write_errors, new_folder
from edgemem.models.memory.anchor import TOKENIZER, Anchor, load_anchor
from edgemem.models.memory.feed_forward import named_layers

REFERENCE = "reference.safetensors"
SAMPLE = "The quick brown fox: 12,345 jumps!\n\n“Ça va?” – naïve 世界 🙂  end"


def export_language(
    folder: Path | str,
    out: Path | str,
    memories: Path | str | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> TextParity:
    """Write a language model as a bundle at `out`, and return the figures of the parity check.

    Args:
        folder: of Hugging Face, with tokenizer.json.
        out: folder to write; an old bundle there is replaced only if everything succeeds.
        memories: a bank that was learnt for this anchor; None = the anchor alone.
        report: called with the name of each stage.

    Raises:
        CheckpointError: the folder holds no language model, or no tokenizer.
        AttachError: a network whose layers are not known, or cannot be continued token by token.
        BundleError, BankError: the bank is damaged.
        ExportError: it is of another anchor, the network cannot be traced, or the graph misses the
            parity check.
        InputError: the folder cannot be written, or holds something else than a bundle.
    """
    folder, out = Path(folder).absolute(), Path(out).absolute()
    bank = None if memories is None else open_memories(memories)
    check_kind(out, TEXT)
    check_beside(out, folder, *([] if bank is None else [bank.path]))
    report("loading")
    anchor = load_anchor(folder)
    _check_size(anchor)
    _check_tokenizer(folder, anchor)
    spec = None if bank is None else _checked(bank, anchor, report)
    decoder = Decoder(anchor, spec)
    report(f"tracing {DECODE}")
    model = to_onnx(decoder.function())
    strip_notes(model)
    with explain_write_errors(out), new_folder(out) as draft:
        report("writing")
        (draft / WEIGHTS).write_bytes(share_weights([model]))
        graph = draft / f"{DECODE}.onnx"
        graph.write_bytes(model.SerializeToString(deterministic=True))
        report("comparing with transformers")
        generic = None if bank is None else bank.memories.generic
        parity, reference = check_text_parity(graph, decoder, generic)
        (draft / REFERENCE).write_bytes(pack(reference.arrays()))
        shutil.copyfile(anchor.tokenizer, draft / TOKENIZER)
        if bank is not None:
            shutil.copytree(bank.path / IN_BUNDLE, draft / IN_BUNDLE)
        report("hashing")
        manifest = TextManifest(
            name=out.name.removesuffix(".edgemem"),
            graph=graph.name,
            text=_text_spec(anchor, decoder),
            tokenizer=TOKENIZER,
            reference=REFERENCE,
            anchor=anchor.sha256,
            memories=spec,
            files=file_records(draft),
            exported_from=_origin(folder, anchor, parity, bank),
        )
        (draft / MANIFEST).write_bytes(text_to_json(manifest))
        open_text_bundle(draft)  # what a device would refuse is not written
    return parity


def _text_spec(anchor: Anchor, decoder: Decoder) -> TextSpec:
    inputs = expected_inputs(decoder.past_inputs(), decoder.spec)
    return TextSpec(anchor.vocabulary, anchor.context, anchor.end, inputs)


def _origin(
    folder: Path, anchor: Anchor, parity: TextParity, bank: MemoryFolder | None
) -> dict[str, Any]:
    """What the bundle was made from: names, no paths."""
    return {
        "folder": folder.name,
        "model": type(anchor.network).__name__,
        "bank": None if bank is None else bank.manifest.name,
        "parity": parity.as_dict(),
        "tools": {"torch": torch.__version__, "onnx": onnx.__version__},
    }


def _checked(bank: MemoryFolder, anchor: Anchor, report: Callable[[str], None]) -> MemorySpec:
    """The spec of a bank that belongs to an anchor, and is not damaged."""
    spec, remedy = bank.manifest.memories, "Train memories for this anchor"
    if spec.anchor != anchor.sha256:
        reason = f"was learnt for anchor {spec.anchor[:12]}…, not {anchor.sha256[:12]}…"
        raise ExportError(str(bank.path), reason, remedy)
    if spec.tokenizer != anchor.tokenizer_sha256:
        raise ExportError(str(bank.path), "was learnt with another tokenizer", remedy)
    named_layers(anchor.network, spec)
    report("checking the bank")
    for fault in verify_bank(bank.memories.folder):
        raise BankError(str(bank.path), f"is damaged, {fault}", "Get a fresh copy of it")
    return spec


def _check_size(anchor: Anchor) -> None:
    """Graphs are made in memory, in a format that ends at 2 GiB."""
    size = sum(4 * value.numel() for value in anchor.network.parameters())
    if size > MOST_GRAPH_BYTES - (64 << 20):
        raise ExportError(
            type(anchor.network).__name__,
            f"has {size:,} bytes of weights, more than one ONNX graph holds",
            "Use an anchor of at most 500 million parameters",
        )


def _check_tokenizer(folder: Path, anchor: Anchor) -> None:
    """The device reads tokenizer.json alone: it must give what transformers gives."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        own = Tokenizer.from_file(str(anchor.tokenizer)).encode(SAMPLE).ids
        given = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )(SAMPLE)["input_ids"]
    except Exception as error:
        reason = f"cannot be read ({type(error).__name__}: {error})"
        raise ExportError(
            TOKENIZER, reason, "Save the tokenizer again with tokenizer.save_pretrained(folder)"
        ) from error
    if list(own) != list(given):
        raise ExportError(
            TOKENIZER,
            "gives other ids than the tokenizer of transformers",
            "Save the tokenizer again with tokenizer.save_pretrained(folder)",
        )
    if max(own) >= anchor.vocabulary:
        raise ExportError(
            TOKENIZER, "has ids that the model does not know", "Use its own tokenizer"
        )
