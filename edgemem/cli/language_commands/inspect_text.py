"""What `edgemem inspect` shows of a bundle of text, or of a bank of memories."""

from __future__ import annotations

from json import loads
from pathlib import Path

from edgemem.bundle.sealed_document import TEXT
from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.bundle.text.text_manifest import memories_to_json, text_to_json
from edgemem.bundle.text.text_opening import open_memories, open_text_bundle
from edgemem.cli.show import print_files, print_json, print_table


def print_text(path: Path, kind: str, *, json: bool) -> None:
    """Print what it holds, after checking all but the rows of its levels. kind: of its manifest.

    Raises:
        BundleError: whatever is not as the manifest says.
    """
    if kind == TEXT:
        manifest = open_text_bundle(path).manifest
        document, text = text_to_json(manifest), manifest.text
        own = [
            ("vocabulary", f"{text.vocabulary:,} tokens"),
            ("context", f"{text.context:,} tokens"),
            ("layers with a past", str(len(text.past()) // 2)),
            ("anchor", manifest.anchor[:12]),
        ]
        name, files, memories = manifest.name, manifest.files, manifest.memories
    else:
        bank = open_memories(path).manifest
        document, own = memories_to_json(bank), [("anchor", bank.memories.anchor[:12])]
        name, files, memories = bank.name, bank.files, bank.memories
    if json:
        print_json(loads(document))
        return
    print_table(name, ("what", "value"), [("kind", kind), *own, *_memories(memories)])
    print_files(files)


def _memories(spec: MemorySpec | None) -> list[tuple[str, str]]:
    if spec is None:
        return [("memories", "–")]
    levels = [
        (f"level {number}", f"rank {level.rank}, {count:,} numbers a block, {level.combine}")
        for number, (level, count) in enumerate(zip(spec.levels, spec.elements, strict=True), 1)
    ]
    key = f"{spec.key.name}, {spec.key.length:,} numbers"
    return [("layers with memories", str(len(spec.layers))), *levels, ("key of a text", key)]
