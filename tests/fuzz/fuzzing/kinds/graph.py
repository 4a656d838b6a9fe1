"""ONNX graphs with a right hash: nodes, attributes, initialisers and shapes altered by field."""

import hashlib
import json
import shutil
from contextlib import suppress

import numpy as np
import onnx
from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format
from fuzzing.kinds.bundle import read_manifest, sealed

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.loop import Runtime

GRAPHS = ("predict.onnx", "key.onnx", "adapt.onnx")
OPERATORS = (
    "Add", "Mul", "Div", "MatMul", "Gemm", "Conv", "Reshape", "Transpose", "Gather", "Concat",
    "Slice", "Softmax", "ReduceMean", "Expand", "Tile", "ConstantOfShape", "Range", "Loop", "If",
    "Identity", "Nothing", "Cast",
)  # fmt: skip
SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 64, 1 << 20, 1 << 31, 1 << 40, 2**63 - 1)
PLACES = (
    "weights.bin", "../weights.bin", "/etc/passwd", "manifest.json", "predict.onnx", "", "x" * 5000,
    ".", "../../x",
)  # fmt: skip


class GraphFormat(Format):
    name, share = "graph", 0.04

    def __init__(self, folder):
        self.folder = folder / "digits.edgemem"
        shutil.copytree(BUNDLE, self.folder)
        self.contents = {
            name: (self.folder / name).read_bytes() for name in (*GRAPHS, "weights.bin")
        }
        self.manifest = read_manifest(self.folder)

    def invent(self, rng):
        # Small graphs first: a session of the step takes a tenth of a second.
        name = rng.choice(("predict.onnx",) * 3 + ("key.onnx",) * 6 + ("adapt.onnx",))
        edits = [[name, self._edit(rng, name)] for _ in range(rng.choice((1, 1, 2)))]
        return Case(edits, True, rng.choice(("latency", "latency", "memory")))

    def _edit(self, rng, name):
        kind = rng.choice(
            (
                "bytes",
                "node",
                "attribute",
                "number",
                "place",
                "shape",
                "wire",
                "drop",
                "model",
                "swap",
            )
        )
        if kind == "bytes":
            return ["bytes", mutators.bytes_edit(rng, len(self.contents[name]))]
        places = [rng.randrange(1 << 16) for _ in range(3)]
        values = {
            "node": OPERATORS, "attribute": SIZES, "number": SIZES, "place": PLACES, "shape": SIZES,
            "model": ("opset", "ir", "domain", "function", "input", "output", "rename", "dtype"),
        }  # fmt: skip
        return [kind, *places, rng.choice(values.get(kind, (0,)))]

    def build(self, case):
        self.profile = case.base or "latency"
        for name in GRAPHS:
            (self.folder / name).write_bytes(self.contents[name])
        for name, edit in case.edits:
            path = self.folder / name
            if edit[0] == "bytes":
                path.write_bytes(mutators.edited_bytes(path.read_bytes(), edit[1]))
                continue
            # An edit before this one may have broken it; the kinds of protobuf's errors vary.
            with suppress(Exception):
                model = onnx.ModelProto()
                model.ParseFromString(path.read_bytes())
                _edit_model(model, edit)
                path.write_bytes(model.SerializeToString())
        manifest = json.loads(json.dumps(self.manifest))
        for name in GRAPHS:
            content = (self.folder / name).read_bytes()
            manifest["files"][name] = {
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        (self.folder / "manifest.json").write_bytes(sealed(json.dumps(manifest).encode()))

    def use(self):
        digest = Digest()
        bundle = open_bundle(self.folder)
        backend = device.Sessions(bundle, self.contents, self.profile)
        with Runtime(bundle, backend) as runtime:
            frames = device.frames()[1]
            found = [
                runtime.predict(frames[:3], frozen=True),
                runtime.step(frames),
                runtime.predict(frames),
            ]
            digest.add(*(answer.logits for answer in found))
        return digest.output()


def _edit_model(model, edit):
    """Edit a parsed model; places count from the beginning again beyond the end."""
    kind, one, two, three, value = edit
    graph = model.graph
    node = graph.node[one % len(graph.node)]
    tensor = graph.initializer[one % len(graph.initializer)] if graph.initializer else None
    if kind == "node":
        node.op_type = value
    elif kind == "attribute" and node.attribute:
        _edit_attribute(node.attribute[two % len(node.attribute)], three, value)
    elif kind == "number" and tensor is not None:
        _edit_numbers(tensor, two, value)
    elif kind == "place" and tensor is not None:
        _edit_place(tensor, two, three, value)
    elif kind == "shape" and tensor is not None:
        if tensor.dims:
            tensor.dims[two % len(tensor.dims)] = value
        else:
            tensor.dims.append(value)
    elif kind == "wire" and node.input:
        names = [name for other in graph.node for name in (*other.input, *other.output)]
        node.input[two % len(node.input)] = names[three % len(names)]
    elif kind == "drop":
        field = (graph.node, graph.input, graph.output, graph.initializer, node.input)[two % 5]
        if len(field):
            del field[three % len(field)]
    elif kind == "swap":
        other = graph.node[two % len(graph.node)]
        node.op_type, other.op_type = other.op_type, node.op_type
    elif kind == "model":
        _edit_frame(model, one, two, value)


def _edit_attribute(attribute, place, value):
    if attribute.ints:
        attribute.ints[place % len(attribute.ints)] = value
    elif attribute.HasField("t"):
        _edit_numbers(attribute.t, place, value)
    elif attribute.HasField("f"):
        attribute.f = float(np.float32(value))
    elif attribute.HasField("i"):
        attribute.i = value
    else:
        attribute.type = place % 15


def _edit_numbers(tensor, place, value):
    if tensor.raw_data:
        held = bytearray(tensor.raw_data)
        at = place % len(held) // 8 * 8
        held[at : at + 8] = (value % (1 << 64)).to_bytes(8, "little")[: len(held) - at]
        tensor.raw_data = bytes(held)
    else:
        tensor.int64_data.append(value)


def _edit_place(tensor, one, two, value):
    """Where a large constant lies: which file, from where, how long."""
    if not tensor.external_data:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=value)
        return
    entry = tensor.external_data[one % len(tensor.external_data)]
    entry.value = value if entry.key == "location" else str(SIZES[two % len(SIZES)])


def _edit_frame(model, one, two, value):
    graph = model.graph
    if value == "opset":
        model.opset_import[0].version = (0, 1, 7, 18, 25, 1000, -1)[one % 7]
    elif value == "ir":
        model.ir_version = (0, 1, 3, 10, 99)[one % 5]
    elif value == "domain":
        graph.node[one % len(graph.node)].domain = ("com.microsoft", "ai.onnx.ml", "x")[two % 3]
    elif value == "function":
        model.functions.add(name="F", domain="x")
    elif value in ("input", "output"):
        field = graph.input if value == "input" else graph.output
        kind = field[one % len(field)].type.tensor_type
        if two % 2 and kind.shape.dim:
            kind.shape.dim[two % len(kind.shape.dim)].dim_value = SIZES[one % len(SIZES)]
        else:
            kind.shape.dim.add(dim_value=SIZES[two % len(SIZES)])
    elif value == "dtype":
        field = (graph.input, graph.output)[one % 2]
        field[two % len(field)].type.tensor_type.elem_type = one % 24
    else:
        field = (graph.input, graph.output)[one % 2]
        field[two % len(field)].name += "x"
