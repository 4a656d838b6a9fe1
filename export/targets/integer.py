"""Frozen kernels in eight bits, by onnxruntime's own quantiser.

What adapts stays in full precision.

Only the forward convolutions of the frozen model are quantised: per channel, with ranges measured
on source frames. The same ranges serve every graph, so `predict` and `adapt` still agree. Gradients
pass a rounded convolution as if it were not rounded (straight-through, Bengio et al. 2013), for the
backward pass keeps the exact kernels.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import calibrate
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edgemem.block import Array
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.reference_frames import ASKED, MOST_TOLERANCE, OUTPUTS, reference_frames
from edgemem.errors import ExportError
from edgemem.export.checks.onnx_graphs import Arrays, Engine, run_graph, session
from edgemem.export.functions.forward import Function
from edgemem.export.weights import FILE as WEIGHTS
from edgemem.export.weights import share_weights

Range = tuple[Any, Any, Any, Any]  # smallest and largest input and output
Ranges = dict[str, Range]  # by kernel
REMEDY = "Leave --int8 out"
MOST = 0.5  # of the largest logit, that rounding may change on source frames


def quantized(
    models: Mapping[str, onnx.ModelProto],
    learned: Iterable[Array],
    batches: Iterable[Mapping[str, Array]],
) -> dict[str, onnx.ModelProto]:
    """The same graphs with the frozen kernels of `predict` in eight bits.

    Args:
        models: by name, "predict" among them.
        learned: kernels of meta networks, which stay.
        batches: inputs of `predict`, from source frames.

    Raises:
        ExportError: nothing to quantise.
    """
    kept = {_digest(kernel) for kernel in learned}
    ranges = _ranges(models["predict"], kept, batches)
    if not ranges:
        raise ExportError("--int8", "finds no frozen convolution", REMEDY)
    return {name: _quantized(model, ranges) for name, model in models.items()}


def rewritten(
    folder: Path,
    models: Mapping[str, onnx.ModelProto],
    learned: Iterable[Array],
    predict: Function,
    frames: Array,
    batch: int,
) -> dict[str, Any]:
    """Quantise the graphs of a folder in place; figures for people.

    Args:
        folder: of the bundle.
        models: the graphs of the folder by name, with their constants inside.
        learned: kernels of meta networks, which stay.
        predict: what the graph of that name computes.
        frames: [n, ...] float32, of the source, one batch at least.
        batch: frames of one run.
    """
    feeds = {name: value.detach().numpy() for name, value in predict.inputs.items()}
    batches = [feeds | {"x": frames[i : i + batch]} for i in range(0, len(frames), batch)]
    exact = session(folder / "predict.onnx")
    before = [run_graph(exact, inputs)["logits"] for inputs in batches]
    files = [folder / WEIGHTS, *folder.glob("*.onnx")]
    bytes_before = sum(file.stat().st_size for file in files)
    del exact  # it maps the weights
    done = quantized(models, learned, batches)
    counts = {name: count(models[name], graph) for name, graph in done.items()}
    rounded_kernels = counts["predict"]
    if wrong := [n for n, k in counts.items() if n.startswith("adapt") and k < rounded_kernels]:
        reason = f"finds {counts[wrong[0]]} of {rounded_kernels} kernels in {wrong[0]!r}"
        raise ExportError("--int8", reason, REMEDY)
    (folder / WEIGHTS).write_bytes(share_weights(done.values()))
    for name, graph in done.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    rounded = session(folder / "predict.onnx")
    after = [run_graph(rounded, inputs)["logits"] for inputs in batches]
    old, new = np.concatenate(before), np.concatenate(after)
    difference = float(np.abs(old - new).max() / max(1.0, float(np.abs(old).max())))
    if not difference <= MOST:
        raise ExportError(
            "--int8", f"changes logits by {difference:.2f} of the largest, limit {MOST}", REMEDY
        )
    return {
        "convolutions": rounded_kernels,
        "calibration_frames": len(frames),
        "same_label": float((old.argmax(1) == new.argmax(1)).mean()),
        "logits": difference,
        "bytes_before": bytes_before,
        "bytes": sum(file.stat().st_size for file in files),
    }


def reference_of(
    engine: Engine, predict: Function, adapt: Function, reference: Arrays, frames: FrameSpec
) -> Arrays:
    """Outputs that every device must reproduce, from the quantised graphs instead of torch."""
    x = reference_frames(frames, int(reference["seed"]))
    inputs: dict[str, Any] = {name: value.numpy() for name, value in adapt.inputs.items()}
    inputs |= {name: value for name, value in reference.items() if name.startswith("hp.")}
    inputs["x"] = x
    zero = {name: np.zeros_like(value.numpy()) for name, value in predict.inputs.items()}
    stepped = engine["adapt"](inputs)
    following = {n.removeprefix("next."): v for n, v in stepped.items() if n.startswith("next.")}
    return reference | {
        "frozen.logits": engine["predict"](zero | {"x": x})["logits"],
        "adapt.logits": stepped["logits"],
        "adapted.logits": engine["predict"](inputs | following)["logits"],
        ASKED: np.full(len(OUTPUTS), MOST_TOLERANCE, np.float32),
    }


def count(model: onnx.ModelProto, done: onnx.ModelProto) -> int:
    """Convolutions with a constant kernel that became one in eight bits."""
    return len(list(_convolutions(model))) - len(list(_convolutions(done)))


def _ranges(
    predict: onnx.ModelProto, kept: set[str], batches: Iterable[Mapping[str, Array]]
) -> Ranges:
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        plain, augmented = Path(folder) / "predict.onnx", Path(folder) / "augmented.onnx"
        onnx.save(predict, plain)
        calibrator = calibrate.create_calibrator(
            plain, ["Conv"], str(augmented), calibrate.CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Reader(iter(batches)))
        seen = calibrator.compute_data()
    found: Ranges = {}
    for node, kernel in _convolutions(predict):
        digest = _digest(kernel)
        if digest not in kept and kernel[0].size > 1 and node.input[0] in seen:
            low_in, high_in = seen[node.input[0]].range_value
            low_out, high_out = seen[node.output[0]].range_value
            now = low_in, high_in, low_out, high_out
            found[digest] = _both(found.get(digest, now), now)  # a kernel may be used twice
    return found


def _both(one: Range, other: Range) -> Range:
    low_in, high_in, low_out, high_out = zip(one, other, strict=True)
    return min(low_in), max(high_in), min(low_out), max(high_out)


def _quantized(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    chosen, tensors = [], {}
    for number, (node, kernel) in enumerate(_convolutions(copy)):
        if (known := ranges.get(_digest(kernel))) is None:
            continue
        node.name = f"frozen_{number}"
        chosen.append(node.name)
        for name, low, high in ((node.input[0], *known[:2]), (node.output[0], *known[2:])):
            tensors[name] = calibrate.TensorData(lowest=low, highest=high)
    if not chosen:
        return copy
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QInt8,
        tensors_range=calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, tensors),
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={"ForceQuantizeNoInputCheck": True},
    )
    quantizer.quantize_model()
    done: onnx.ModelProto = quantizer.model.model
    return done


def _convolutions(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Array]]:
    """Those whose kernel is a constant, with the kernel."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in constants:
            yield node, numpy_helper.to_array(constants[node.input[1]])


def _digest(kernel: Array) -> str:
    content = np.ascontiguousarray(kernel, np.float32).tobytes()
    return hashlib.sha256(f"{kernel.shape}".encode() + content).hexdigest()


class _Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]
    """Batches for onnxruntime's calibrator."""

    def __init__(self, batches: Iterator[Mapping[str, Array]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, Array] | None:
        """The next inputs; None at the end."""
        return next(self._batches, None)
