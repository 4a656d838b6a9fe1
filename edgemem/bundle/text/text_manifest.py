"""The manifests of a bundle of text and of a bank of memories: what they hold, and their bytes.

The format is docs/formats/text.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from edgemem.bank.levels.level_folder import IN_BUNDLE, is_level
from edgemem.bundle.manifest import REMEDY, FileRecord
from edgemem.bundle.sealed_document import (
    FORMAT,
    FORMAT_VERSION,
    MEMORIES,
    TEXT,
    read_sealed,
    sealed,
)
from edgemem.bundle.text.memory_spec import (
    MemorySpec,
    memory_document,
    read_hash,
    read_memories,
)
from edgemem.errors import BundleError
from edgemem.files.typed_json import HALVES, Value
from edgemem.version import VERSION

DECODE = "decode"
GENERIC, KEY = f"{IN_BUNDLE}/generic.safetensors", f"{IN_BUNDLE}/key.safetensors"
AXES = ("new", "past", "asked")  # sizes that every run chooses
DTYPES = ("int64", "float32")
MOST_INPUTS, MOST_FILES, MOST_ENDS, MOST_DIMENSIONS = 1 << 13, 1 << 12, 256, 8
MOST_TOKENS = 1 << 24  # of a vocabulary, or of a context
MOST_SHOWN = 1 << 20  # characters that are for people
MOST_FILE_BYTES = 16 << 30
HEADER_BYTES = 1 << 16
REFERENCE_BYTES = 4 << 20


@dataclass(frozen=True)
class GraphInput:
    """An input of `decode`. shape: sizes, or names of `AXES`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class TextSpec:
    """What a language model takes and gives.

    Attributes:
        vocabulary: numbers of the logits of one place.
        context: most tokens of prompt and answer together.
        end: ids of the tokens that end an answer.
        inputs: of the graph, in its order.
    """

    vocabulary: int
    context: int
    end: tuple[int, ...]
    inputs: tuple[GraphInput, ...]

    def past(self) -> tuple[GraphInput, ...]:
        """The inputs that hold keys and values of earlier tokens."""
        return tuple(given for given in self.inputs if given.name.startswith("past."))


@dataclass(frozen=True)
class TextManifest:
    """Everything that is known of a bundle of text before a graph is opened.

    Attributes:
        graph: file of `decode`.
        tokenizer: file in the format of the library tokenizers.
        reference: file with logits that every device must reproduce.
        anchor: SHA-256 of the weights, see `edgemem.models.memory.anchor`.
        memories: what the bank in it holds; None without one.
        exported_from: for people, never read by the runtime.
    """

    name: str
    graph: str
    text: TextSpec
    tokenizer: str
    reference: str
    anchor: str
    memories: MemorySpec | None
    files: dict[str, FileRecord]
    exported_from: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MemoryManifest:
    """Everything that is known of a bank of memories before a level is opened."""

    name: str
    memories: MemorySpec
    files: dict[str, FileRecord]
    trained_on: dict[str, Any] = field(default_factory=dict)


def text_to_json(manifest: TextManifest) -> bytes:
    """The bytes of `manifest.json` of a bundle of text."""
    memories = manifest.memories
    return sealed(
        {
            **_head(TEXT, manifest.name),
            "graphs": {DECODE: manifest.graph},
            "text": asdict(manifest.text),
            "tokenizer": manifest.tokenizer,
            "reference": manifest.reference,
            "anchor": manifest.anchor,
            "memories": None if memories is None else memory_document(memories),
            "files": {name: vars(record) for name, record in manifest.files.items()},
            "exported_from": manifest.exported_from,
        }
    )


def memories_to_json(manifest: MemoryManifest) -> bytes:
    """The bytes of `manifest.json` of a bank of memories."""
    return sealed(
        {
            **_head(MEMORIES, manifest.name),
            "memories": memory_document(manifest.memories),
            "files": {name: vars(record) for name, record in manifest.files.items()},
            "trained_on": manifest.trained_on,
        }
    )


def text_from_json(content: bytes, where: str) -> TextManifest:
    """Read and check the manifest of a bundle of text.

    Raises:
        BundleError: altered, not JSON, another format, version or kind, or a wrong value.
    """
    document = read_sealed(content, where, TEXT)
    named = document.field
    memories = named("memories")
    graphs = {name: value.text() for name, value in named("graphs").object().items()}
    if set(graphs) != {DECODE}:
        named("graphs").refuse(f"holds other graphs than {DECODE!r}")
    manifest = TextManifest(
        name=named("name").text(),
        graph=graphs[DECODE],
        text=_text(named("text")),
        tokenizer=named("tokenizer").text(),
        reference=named("reference").text(),
        anchor=read_hash(named("anchor")),
        memories=None if memories.plain is None else read_memories(memories),
        files=_files(named("files")),
        exported_from=_shown(named("exported_from")),
    )
    if reason := next(_faults(manifest), None):
        raise BundleError(where, f"does not fit together ({reason})", REMEDY)
    return manifest


def memories_from_json(content: bytes, where: str) -> MemoryManifest:
    """Read and check the manifest of a bank of memories.

    Raises:
        BundleError: as `text_from_json`.
    """
    document = read_sealed(content, where, MEMORIES)
    manifest = MemoryManifest(
        document.field("name").text(),
        read_memories(document.field("memories")),
        _files(document.field("files")),
        _shown(document.field("trained_on")),
    )
    if reason := next(_memory_faults(manifest.memories, manifest.files), None):
        raise BundleError(where, f"does not fit together ({reason})", REMEDY)
    return manifest


def expected_inputs(
    past: tuple[GraphInput, ...], memories: MemorySpec | None
) -> tuple[GraphInput, ...]:
    """The inputs of `decode`, in order: what runs bring, then past, then block."""
    block = () if memories is None else memories.inputs().arrays
    return (
        GraphInput("ids", "int64", (1, "new")),
        GraphInput("position", "int64", (1, "new")),
        GraphInput("asked", "int64", ("asked",)),
        *past,
        *(GraphInput(f"block.{array.name}", array.dtype, array.shape) for array in block),
    )


def _head(kind: str, name: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "written_by": f"edgemem {VERSION}",
        "name": name,
    }


def _text(entry: Value) -> TextSpec:
    return TextSpec(
        entry.field("vocabulary").count(1, MOST_TOKENS),
        entry.field("context").count(1, MOST_TOKENS),
        tuple(end.count(most=MOST_TOKENS) for end in entry.field("end").list(MOST_ENDS)),
        tuple(_input(given) for given in entry.field("inputs").list(MOST_INPUTS)),
    )


def _input(entry: Value) -> GraphInput:
    sizes = entry.field("shape").list(MOST_DIMENSIONS)
    return GraphInput(
        entry.field("name").text(),
        entry.field("dtype").choice(DTYPES),
        tuple(
            size.choice(AXES) if isinstance(size.plain, str) else size.count(1, MOST_TOKENS)
            for size in sizes
        ),
    )


def _files(entry: Value) -> dict[str, FileRecord]:
    return {
        name: FileRecord(record.field("size").count(), read_hash(record.field("sha256")))
        for name, record in entry.object(MOST_FILES).items()
    }


def _shown(entry: Value) -> dict[str, Any]:
    found = {name: value.plain for name, value in entry.object().items()}
    text = json.dumps(found, ensure_ascii=False)
    if len(text) > MOST_SHOWN:
        entry.refuse(f"has more than {MOST_SHOWN:,} characters")
    if HALVES.search(text):
        entry.refuse("holds half a character")
    return found


def _faults(manifest: TextManifest) -> Iterator[str]:
    text, memories, files = manifest.text, manifest.memories, manifest.files
    most = {manifest.graph: MOST_FILE_BYTES, manifest.tokenizer: MOST_FILE_BYTES}
    for name, size in (most | {manifest.reference: REFERENCE_BYTES}).items():
        if name not in files or is_level(name) or files[name].size > size:
            yield f"file {name!r} is not listed, is a level, or has more than {size:,} bytes"
    if any(end >= text.vocabulary for end in text.end):
        yield "an end that is no token"
    for given in text.past():
        if given.dtype != "float32" or [s for s in given.shape if s == "past"] != ["past"]:
            yield f"input {given.name!r} holds no past"
    if text.inputs != expected_inputs(text.past(), memories):
        yield "inputs that are not those of decode"
    if memories is None and any(is_level(name) for name in files):
        yield "levels, but no memories"
    if memories is not None:
        yield from _memory_faults(memories, files)
        if memories.anchor != manifest.anchor:
            yield "memories of another anchor"
        if memories.tokenizer != files[manifest.tokenizer].sha256:
            yield "memories of another tokenizer"
    for name, record in files.items():
        if record.size > MOST_FILE_BYTES and not is_level(name):
            yield f"file {name!r} of {record.size:,} bytes, more than {MOST_FILE_BYTES:,}"


def _memory_faults(spec: MemorySpec, files: dict[str, FileRecord]) -> Iterator[str]:
    block = spec.inputs()
    sizes = {GENERIC: block.nbytes, KEY: 4 * spec.key.length}
    for name, least in sizes.items():
        most = least + HEADER_BYTES * (1 + len(block.arrays))
        if name not in files or not least <= files[name].size <= most:
            yield f"file {name!r} is not listed, or not of the size of its arrays"
    if sum(is_level(name) for name in files) != len(spec.levels):
        yield f"other files than {len(spec.levels)} levels"
