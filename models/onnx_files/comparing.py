"""Whether a converted network is the file: both run on random frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import FRAMES
from edgemem.bundle.reference_frames import reference_frames
from edgemem.bundle.rows import fields, inputs_of, with_frames
from edgemem.errors import CheckpointError
from edgemem.models.onnx_files.network import OnnxNetwork, Step
from edgemem.models.onnx_files.onnx_graph import OnnxGraph
from edgemem.models.onnx_files.onnx_proto import FROM_TORCH, refused
from edgemem.models.onnx_files.operators.calls import Value
from edgemem.models.tensor_rows import of_array

LIMIT = 1e-4  # relative to the largest value
SMALLEST = 1e-2  # the least such value: a tiny output is rounding beside what it was made of
COUNTS = (1, 2, 5)  # frames at once
Arrays = NDArray[Any]


class GivenFile:
    """The file as it is, run by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self.session = _session(path, str(path))
        self.output_names = [output.name for output in self.session.get_outputs()]

    def run(self, graph: OnnxGraph, frames: Arrays, at_once: int | None) -> list[Arrays]:
        """All outputs for rows of frames; at_once: so many in one run, None = all."""
        size = at_once or len(frames)
        parts = [
            self.session.run(None, _feeds(graph, frames[start : start + size]))
            for start in range(0, len(frames), size)
        ]
        return [
            np.concatenate(found) if len(found) > 1 else found[0]
            for found in zip(*parts, strict=True)
        ]


def _feeds(graph: OnnxGraph, rows: Arrays) -> dict[str, Arrays]:
    """Rows by the names that the inputs have in the file."""
    return {graph.input_name: fields(rows)[FRAMES], **inputs_of(rows)}


def batch_of(given: GivenFile, graph: OnnxGraph, frame: FrameSpec) -> int | None:
    """Frames that a file takes at once; None = any number.

    Raises:
        CheckpointError: it takes frames of that shape in no number.
    """
    if graph.sizes[0] is not None:
        return graph.sizes[0]
    errors = []
    for count in (2, 1):
        try:
            found = given.run(graph, _frames(count, frame, 0), None)
        except Exception as error:  # noqa: BLE001 - of the engine, in several types
            errors.append(str(error).strip().splitlines()[0])
            continue
        if count == 2 and all(len(array) == count for array in found if array.ndim):
            return None
        return count
    raise refused(
        graph.path,
        f"does not run on frames of {list(frame.shape)} ({errors[-1]})",
        "Check --input-shape, or export the file again with a dynamic batch",
    )


def compare(
    given: GivenFile,
    graph: OnnxGraph,
    network: OnnxNetwork,
    spec: FrameSpec,
    fixed_batch: int | None,
) -> None:
    """Run both on random frames, in batches of several sizes.

    Raises:
        CheckpointError: they differ; it names the first node that does.
    """
    for number, count in enumerate(COUNTS):
        frames = _frames(count * (fixed_batch or 1), spec, number)
        try:
            expected = given.run(graph, frames, fixed_batch)
        except Exception as error:
            raise refused(
                graph.path, f"does not run on {count} frames ({str(error).splitlines()[0]})"
            ) from error
        try:
            with torch.no_grad():
                found = network.run(of_array(frames))
        except Exception as error:
            raise _not_for_every_batch(graph, fixed_batch, count, error) from error
        worst = max(
            distance(found[name], array)
            for name, array in zip(given.output_names, expected, strict=True)
        )
        if not worst <= LIMIT:
            raise _difference(graph, network, frames, fixed_batch, worst)


def distance(found: Tensor, given: Arrays) -> float:
    """Largest difference, relative to the largest given value."""
    if tuple(found.shape) != given.shape:
        return math.inf
    if given.size == 0:
        return 0.0
    ours = found.detach().numpy().astype(np.float64)
    theirs = given.astype(np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(ours - theirs))
    finite = np.abs(theirs[np.isfinite(theirs)])
    largest = max(SMALLEST, float(finite.max(initial=0.0)))
    return float(np.nan_to_num(off / largest, nan=math.inf, posinf=math.inf).max())


def _frames(count: int, frame: FrameSpec, seed: int) -> Arrays:
    """Frames about zero and between zero and one, in turn; and what comes beside them."""
    generator = np.random.default_rng(seed)
    shape = (count, *frame.shape)
    rows = reference_frames(replace(frame, batch=count), seed)
    if frame.ids is not None:
        return rows
    if seed % 2:
        return with_frames(rows, generator.random(shape, np.float32))
    return with_frames(rows, generator.standard_normal(shape, np.float32))


def _session(path: Path, model: str | bytes, *, plain: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of the engine, in several types
        reason = str(error).strip().splitlines()[0]
        raise refused(
            path, f"cannot be loaded by ONNX Runtime ({reason})", "Export it again"
        ) from error


def _not_for_every_batch(
    graph: OnnxGraph, fixed_batch: int | None, count: int, error: Exception
) -> CheckpointError:
    if fixed_batch is None:
        return refused(
            graph.path, f"cannot be converted: {count} frames fail ({error})", FROM_TORCH
        )
    return refused(
        graph.path,
        f"is for a batch of {fixed_batch} alone, and cannot be made one for any ({error})",
        "Export it again with a dynamic batch axis",
    )


def _difference(
    graph: OnnxGraph, network: OnnxNetwork, frames: Arrays, fixed_batch: int | None, worst: float
) -> CheckpointError:
    if fixed_batch is not None:
        first = frames[:fixed_batch]
        given = GivenFile(graph.path).run(graph, first, None)
        with torch.no_grad():
            found = network.run(of_array(first))
        names = graph.output_names
        if all(distance(found[n], a) <= LIMIT for n, a in zip(names, given, strict=True)):
            return refused(
                graph.path,
                f"is for a batch of {fixed_batch} alone, and cannot be made one for any",
                "Export it again with a dynamic batch axis",
            )
        frames = first
    node = _first_difference(graph, network, frames)
    what = "" if node is None else f"; node {node} is the first that differs"
    return refused(
        graph.path,
        f"cannot be converted: it would be off by {worst:.1e} of its size, limit {LIMIT:.0e}{what}",
        FROM_TORCH,
    )


def _first_difference(graph: OnnxGraph, network: OnnxNetwork, frames: Arrays) -> str | None:
    """The first node whose output differs, with its operator."""
    seen: list[tuple[str, str, Tensor]] = []

    def watch(step: Step, values: Mapping[str, Value]) -> None:
        value = values.get(step.outputs[0])
        if isinstance(value, Tensor):
            seen.append((step.outputs[0], f"{step.name!r} ({step.call.operator})", value))

    with torch.no_grad():
        network.run(of_array(frames), watch)
    try:
        given = _intermediate(graph, [name for name, _, _ in seen], frames)
    except Exception:  # noqa: BLE001 - it is for a better message alone
        return None
    return next((what for name, what, x in seen if distance(x, given[name]) > LIMIT), None)


def _intermediate(graph: OnnxGraph, names: list[str], frames: Arrays) -> dict[str, Arrays]:
    model = onnx.load(graph.path)
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = _session(graph.path, model.SerializeToString(), plain=True)
    found = session.run(None, _feeds(graph, frames))
    return dict(zip(names, found, strict=True))
