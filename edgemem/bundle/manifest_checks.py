"""Relations between the values of a manifest.

Checked before a file is read or memory reserved from them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgemem.bank.levels.level_folder import is_level
from edgemem.block import ArraySpec, BlockSpec
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import TARGETS, Manifest
from edgemem.bundle.reference_frames import reference_sizes

MOST_FRAME_BYTES = 1 << 30  # of two batches, and of what is computed from one
MOST_FILE_BYTES = 16 << 30  # all are hashed when a bundle is opened, but the levels
MOST_GRAPH_BYTES = 2 << 30  # where protobuf ends
# What the header of a safetensors file takes, at most: names are up to 1,024 characters.
HEADER_BYTES = 1 << 16
HEADER_BYTES_OF_ARRAY = 1 << 13
SCALES = (1e-30, 1e30)  # frames divided by less or more are no frames


def check(manifest: Manifest) -> str | None:
    """Why a manifest cannot be right, or None."""
    return next(_faults(manifest), None)


def _faults(manifest: Manifest) -> Iterator[str]:
    yield from _graphs(manifest)
    yield from _teaching(manifest)
    yield from _targets(manifest)
    yield from _files(manifest)
    for spec in (manifest.block, manifest.slots):
        if len({array.name for array in spec.arrays}) != len(spec.arrays):
            yield "two arrays have the same name"
        for array in spec.arrays:
            if not _holds(array):
                yield f"array {array.name!r} of {array.dtype} cannot be {array.zero}"
    yield from _frames(manifest.frames)
    yield from _answers(manifest)
    yield from _frame_sizes(manifest)
    if not SCALES[0] <= manifest.frames.uint8_scale <= SCALES[1]:
        yield f"uint8_scale {manifest.frames.uint8_scale}"
    yield from _sizes(manifest)


def _graphs(manifest: Manifest) -> Iterator[str]:
    if "predict" not in manifest.graphs:
        yield "no graph named 'predict'"
    if manifest.source is not None and "key" not in manifest.graphs:
        yield "source keys, but no graph named 'key'"
    if "adapt" in manifest.graphs and not manifest.plans:
        yield "a graph named 'adapt', but no plan"
    for plan in manifest.plans:
        if plan.graph not in manifest.graphs:
            yield f"a plan with graph {plan.graph!r}, which is not listed"


def _teaching(manifest: Manifest) -> Iterator[str]:
    teaching = manifest.teaching
    if (teaching is None) != ("learn" not in manifest.graphs):
        yield "a graph named 'learn' and 'teaching' belong together"
    if teaching is None:
        return
    if teaching.capacity < len(manifest.labels):
        yield f"room for {teaching.capacity} classes, but {len(manifest.labels)} labels"
    shapes = {spec.name: spec.shape for spec in manifest.block.arrays}
    for name in teaching.arrays:
        if shapes.get(name, ())[:1] != (teaching.capacity,):
            yield f"array {name!r} has no row for each class"
    for name, values in teaching.reads.items():
        if unknown := sorted(set(values) - set(manifest.hyper_parameters)):
            yield f"read {name!r} sets {unknown[0]!r}, which is no hyper-parameter"
    if not teaching.arrays or not teaching.reads:
        yield "teaching without arrays or without a way to read"


def _answers(manifest: Manifest) -> Iterator[str]:
    task, batch = manifest.task, manifest.frames.batch
    numbers = manifest.classes if task is None else task.numbers
    if manifest.surer_below is not None and task is not None and not task.knows_certainty:
        yield f"a limit of certainty, but the task is {task.kind}"
    if 8 * batch * numbers > MOST_FRAME_BYTES:
        yield f"answers of {batch} by {numbers} numbers are too large"
    if task is None:
        return
    if len({output.name for output in task.outputs}) != len(task.outputs):
        yield "two outputs have the same name"
    for output in task.outputs:
        if output.axis > len(output.shape):
            yield f"output {output.name!r} has no axis {output.axis}"
    if len(task.deviation) not in (0, task.summary) or len(task.mean) != len(task.deviation):
        yield "mean or deviation of the summary"
    if task.limit < 0:
        yield f"limit {task.limit} of the summary"
    familiar = manifest.familiar and not task.knows_certainty
    if manifest.labels or manifest.teaching is not None or familiar:
        yield f"labels, teaching or familiar frames, but the task is {task.kind}"


def _targets(manifest: Manifest) -> Iterator[str]:
    for target, graphs in manifest.targets.items():
        if target not in TARGETS[1:]:
            yield f"target {target!r}"
        if "predict" not in graphs or set(graphs) - set(manifest.graphs):
            yield f"graphs of target {target!r}: {', '.join(sorted(graphs))}"


def _files(manifest: Manifest) -> Iterator[str]:
    named = [*manifest.graphs.values(), manifest.generic_block, manifest.reference]
    named += [item.file for graphs in manifest.targets.values() for item in graphs.values()]
    if manifest.source is not None:
        named.append(manifest.source)
    for name in named:
        if name not in manifest.files:
            yield f"file {name!r} is not listed under files"
        # Levels are not hashed when a bundle is opened; everything else is.
        if is_level(name):
            yield f"file {name!r} has the name of a level but is none"
    if manifest.levels and (reason := manifest.refuses_levels()):
        yield f"levels of a bank, but {reason}"


def _frames(frames: FrameSpec) -> Iterator[str]:
    if 8 * frames.batch * frames.values > MOST_FRAME_BYTES:
        yield f"frames of {list(frames.shape)} by {frames.batch} are too large"
    if len({given.name for given in frames.inputs}) != len(frames.inputs):
        yield "two inputs have the same name"
    for given in frames.inputs:
        if not given.low <= given.high:
            yield f"input {given.name!r} from {given.low} to {given.high}"
    if frames.ids is not None and frames.ids[0] > frames.ids[1]:
        yield f"token ids from {frames.ids[0]} to {frames.ids[1]}"
    for values in frames.source_range or ():
        if (len(values),) != frames.shape[:1]:
            yield "source_range is not one value for each channel"


def _frame_sizes(manifest: Manifest) -> Iterator[str]:
    """Further sizes of frames: each as right as a bundle for it alone would be."""
    frames, task = manifest.frames, manifest.task
    if frames.sizes and (manifest.targets or manifest.teaching or frames.ids or frames.inputs):
        yield "several sizes of frames, beside targets, teaching, token ids or further inputs"
    if len(set(frames.shapes)) != len(frames.shapes):
        yield "two sizes of frames are the same"
    for size in frames.sizes:
        thing = f"frames of {list(size.shape)}"
        if len(size.shape) != len(frames.shape) or size.shape[0] != frames.shape[0]:
            yield f"{thing} beside those of {list(frames.shape)}"
        if size.graphs.keys() != manifest.graphs.keys():
            yield f"graphs for {thing}: {', '.join(sorted(size.graphs))}"
        outputs = () if task is None else task.outputs
        if [len(shape) for shape in size.outputs] != [len(o.shape) for o in outputs]:
            yield f"outputs for {thing}"
        if (reason := check(manifest.at(size.shape))) is not None:
            yield f"{thing}: {reason}"


def _sizes(manifest: Manifest) -> Iterator[str]:
    """Files that are read whole are no larger than what they hold."""
    block, sizes = manifest.block, {name: item.size for name, item in manifest.files.items()}
    for name, size in sizes.items():
        if size > MOST_FILE_BYTES and not is_level(name):
            yield f"file {name!r} of {size:,} bytes, more than {MOST_FILE_BYTES:,}"
    for name in manifest.graphs.values():
        if sizes[name] > MOST_GRAPH_BYTES:
            yield f"graph {name!r} of {sizes[name]:,} bytes, more than {MOST_GRAPH_BYTES:,}"
    generic = sizes[manifest.generic_block]
    if block.nbytes > generic:
        yield "the block specification is larger than the generic block"
    if generic > block.nbytes + _header_bytes(block):
        yield f"the generic block has {generic:,} bytes, its arrays take {block.nbytes:,}"
    if manifest.slots.nbytes > 4 * generic + (1 << 16):
        yield "the optimiser slots are larger than four blocks"
    scalars = (len(manifest.hyper_parameters) + 8) * HEADER_BYTES_OF_ARRAY + HEADER_BYTES
    answers = 3 * 8 * manifest.frames.batch * sum(reference_sizes(manifest).values())
    scalars += 3 * HEADER_BYTES_OF_ARRAY * len(manifest.answers)
    if (found := sizes[manifest.reference]) > answers + scalars:
        yield f"the reference has {found:,} bytes, its arrays take {answers:,}"
    if manifest.source is not None:
        keys = 4 * manifest.key * (manifest.key + 1)
        if (found := sizes[manifest.source]) > keys + scalars:
            yield f"the source keys have {found:,} bytes, their arrays take {keys:,}"


def _holds(array: ArraySpec) -> bool:
    """Whether an array can be filled with its zero value."""
    if array.dtype.startswith("float"):
        return abs(array.zero) <= float(np.finfo(array.dtype).max)
    limits = np.iinfo(array.dtype)
    return array.zero.is_integer() and limits.min <= int(array.zero) <= limits.max


def _header_bytes(spec: BlockSpec) -> int:
    return HEADER_BYTES + HEADER_BYTES_OF_ARRAY * len(spec.arrays)
