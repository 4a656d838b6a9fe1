"""The manifest of a bundle of frames: written, and read back value by value."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from edgemem.block import DTYPES, ArraySpec, BlockSpec
from edgemem.bundle.frame_spec import FrameSize, FrameSpec
from edgemem.bundle.further_input import frames_document, read_ids, read_inputs
from edgemem.bundle.manifest import (
    CLASSES,
    MOST_SUMMARY,
    PROFILES,
    REMEDY,
    TARGETS,
    TASKS,
    Binding,
    FileRecord,
    HyperParameter,
    Manifest,
    OutputSpec,
    Plan,
    TaskSpec,
    Teaching,
)
from edgemem.bundle.manifest_checks import check
from edgemem.bundle.sealed_document import FORMAT, FORMAT_VERSION, FRAMES, read_sealed, sealed
from edgemem.errors import BundleError
from edgemem.files.typed_json import HALVES, Value
from edgemem.version import VERSION

# How many of each there can be, before anything is done for each of them.
MOST_DIMENSIONS = 8
MOST_ARRAYS = 1 << 14
MOST_FILES = 1 << 12
MOST_LABELS = 1 << 16
MOST_NAMES = 256  # graphs, plans, hyper-parameters, inputs of a graph beside arrays …
MOST_SHOWN = 1 << 20  # characters that are for people


def to_json(manifest: Manifest) -> bytes:
    """The manifest as the bytes of `manifest.json`."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_by": f"edgemem {VERSION}",
        "name": manifest.name,
        "graphs": manifest.graphs,
        "targets": {
            target: {name: vars(binding) for name, binding in graphs.items()}
            for target, graphs in manifest.targets.items()
        },
        "plans": [vars(plan) for plan in manifest.plans],
        "frames": frames_document(asdict(manifest.frames)),
        "labels": manifest.labels,
        "block": [vars(spec) for spec in manifest.block.arrays],
        "slots": [vars(spec) for spec in manifest.slots.arrays],
        "hyper_parameters": {k: vars(v) for k, v in manifest.hyper_parameters.items()},
        "key": manifest.key,
        "stats": manifest.stats,
        "generic_block": manifest.generic_block,
        "reference": manifest.reference,
        "source": manifest.source,
        "files": {name: vars(record) for name, record in manifest.files.items()},
        "exported_from": manifest.exported_from,
        "adapt_when": manifest.adapt_when,
        "familiar": manifest.familiar,
        "teaching": None if manifest.teaching is None else vars(manifest.teaching),
    }
    if manifest.task is not None:  # else the bundle tells classes apart, and says nothing of it
        document["task"] = asdict(manifest.task)
    if manifest.surer_below is not None:
        document["surer_below"] = manifest.surer_below
    return sealed(document)


def from_json(content: bytes, where: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: altered, not JSON, another format or version, or a value of the wrong kind.
    """
    manifest = _parse(read_sealed(content, where, FRAMES))
    if reason := check(manifest):
        raise BundleError(where, f"does not fit together ({reason})", REMEDY)
    return manifest


def _parse(document: Value) -> Manifest:
    field = document.field
    source, teaching = field("source"), field("teaching")
    surer = document.object().get("surer_below")
    return Manifest(
        name=field("name").text(),
        graphs=_file_names(field("graphs")),
        plans=tuple(_plan(entry) for entry in field("plans").list(MOST_NAMES)),
        frames=_frames(field("frames")),
        labels=_texts(field("labels"), MOST_LABELS),
        block=_block_spec(field("block")),
        slots=_block_spec(field("slots")),
        hyper_parameters={
            name: HyperParameter(value.field("default").single(), value.field("frozen").single())
            for name, value in field("hyper_parameters").object(MOST_NAMES).items()
        },
        key=field("key").count(most=MOST_LABELS),
        stats=_texts(field("stats")),
        generic_block=field("generic_block").text(),
        reference=field("reference").text(),
        source=None if source.plain is None else source.text(),
        files={
            name: FileRecord(record.field("size").count(), record.field("sha256").text())
            for name, record in field("files").object(MOST_FILES).items()
        },
        exported_from=_shown(field("exported_from")),
        adapt_when=field("adapt_when").count(least=1),
        familiar=field("familiar").flag(),
        targets=_targets(field("targets")),
        teaching=None if teaching.plain is None else _teaching(teaching),
        task=_task(document),
        surer_below=None if surer is None else surer.positive(),
    )


def _frames(entry: Value) -> FrameSpec:
    limits = entry.field("source_range")
    low_high = None
    if limits.plain is not None:
        low, high = (_numbers(values) for values in limits.list(2, 2))
        low_high = low, high
    return FrameSpec(
        _shape(entry.field("shape")),
        entry.field("batch").count(least=1),
        entry.field("companions").flag(),
        entry.field("known_companions").count(),
        entry.field("uint8_scale").positive(),
        low_high,
        read_ids(entry),
        read_inputs(entry),
        _frame_sizes(entry.object().get("sizes")),
    )


def _frame_sizes(entries: Value | None) -> tuple[FrameSize, ...]:
    """Further sizes of frames; not there where there is one size."""
    if entries is None:
        return ()
    return tuple(
        FrameSize(
            _shape(entry.field("shape")),
            _file_names(entry.field("graphs")),
            entry.field("reference").text(),
            tuple(_shape(shape) for shape in entry.field("outputs").list(MOST_NAMES)),
        )
        for entry in entries.list(MOST_NAMES)
    )


def _file_names(entry: Value) -> dict[str, str]:
    return {name: value.text() for name, value in entry.object(MOST_NAMES).items()}


def _targets(entry: Value) -> dict[str, dict[str, Binding]]:
    return {
        target: {name: _binding(item) for name, item in graphs.object(MOST_NAMES).items()}
        for target, graphs in entry.object(len(TARGETS)).items()
    }


def _binding(entry: Value) -> Binding:
    return Binding(
        entry.field("file").text(),
        entry.field("signature").text(),
        _texts(entry.field("inputs"), 2 * MOST_ARRAYS),
        _texts(entry.field("outputs"), 2 * MOST_ARRAYS),
    )


def _teaching(entry: Value) -> Teaching:
    return Teaching(
        entry.field("capacity").count(1, MOST_LABELS),
        _texts(entry.field("arrays"), MOST_ARRAYS),
        entry.field("root_share").share(),
        {
            name: {key: value.single() for key, value in values.object(MOST_NAMES).items()}
            for name, values in entry.field("reads").object(MOST_NAMES).items()
        },
    )


def _task(document: Value) -> TaskSpec | None:
    entry = document.object().get("task")
    if entry is None:
        return None
    return TaskSpec(
        entry.field("kind").choice([kind for kind in TASKS if kind != CLASSES]),
        tuple(
            OutputSpec(
                output.field("name").text(),
                _shape(output.field("shape")),
                output.field("axis").count(most=MOST_DIMENSIONS),
            )
            for output in entry.field("outputs").list(MOST_NAMES, 1)
        ),
        entry.field("summary").count(1, MOST_SUMMARY),
        tuple(value.single() for value in entry.field("mean").list(MOST_SUMMARY)),
        tuple(value.positive() for value in entry.field("deviation").list(MOST_SUMMARY)),
        entry.field("limit").finite(),
    )


def _plan(entry: Value) -> Plan:
    return Plan(
        entry.field("name").text(),
        entry.field("graph").text(),
        entry.field("profile").choice(PROFILES),
        entry.field("bytes").count(least=1),
        entry.field("milliseconds").positive(),
    )


def _block_spec(entries: Value) -> BlockSpec:
    return BlockSpec(
        tuple(
            ArraySpec(
                entry.field("name").text(),
                _shape(entry.field("shape")),
                entry.field("dtype").choice(DTYPES),
                entry.field("zero").single(),
                entry.field("learns").flag(),
            )
            for entry in entries.list(MOST_ARRAYS)
        )
    )


def _shape(entry: Value) -> tuple[int, ...]:
    return tuple(size.count(least=1) for size in entry.list(MOST_DIMENSIONS))


def _texts(entry: Value, most: int = MOST_NAMES) -> tuple[str, ...]:
    return tuple(value.text() for value in entry.list(most))


def _numbers(entry: Value) -> tuple[float, ...]:
    return tuple(value.single() for value in entry.list(MOST_LABELS))


def _shown(entry: Value) -> dict[str, Any]:
    """What is for people; whoever prints it relies on its kinds, and has to come to an end."""
    found = {name: value.plain for name, value in entry.object().items()}
    if "parts" in found:
        _texts(entry.field("parts"), MOST_ARRAYS)
    text = json.dumps(found, ensure_ascii=False)
    if len(text) > MOST_SHOWN:
        entry.refuse(f"has more than {MOST_SHOWN:,} characters")
    if HALVES.search(text):
        entry.refuse("holds half a character")
    return found
