"""A tiny bundle that can be taught classes, written by hand: its graphs are a few plain operators.

Frames are features [6] already. A block holds a shift of them, which unlabelled steps move against
the mean of what contexts differ in; prototypes; and a class prior, which steps move and labelled
frames do not.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemem.block import ArraySpec, BlockSpec, pack
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import FileRecord, HyperParameter, Manifest, Plan, Teaching
from edgemem.bundle.manifest_file import to_json
from edgemem.files.atomic import sha256_file

BATCH, FEATURES, CAPACITY = 16, 6, 5
OWN = ("left", "right")
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
TAUGHT = ("prototypes.sums", "prototypes.frames", "remembered_prior")
BLOCK = BlockSpec(
    (
        ArraySpec("shift", (FEATURES,), "float32", learns=True),
        ArraySpec("remembered_frames", (), "float32"),
        ArraySpec("remembered_prior", (CAPACITY,), "float32"),
        ArraySpec("prototypes.sums", (CAPACITY, FEATURES), "float32"),
        ArraySpec("prototypes.frames", (CAPACITY,), "float32"),
    )
)
HYPER_PARAMETERS = {
    "learning_rate": HyperParameter(0.5, 0.0),
    "learn_rate": HyperParameter(0.01, 0.0),
    "prototype_weight": HyperParameter(0.5, 0.0),
    "prior_weight": HyperParameter(0.1, 0.0),
}
READS = {
    "mixed": {"prototype_weight": 0.5},
    "prototypes": {"prototype_weight": 1.0},
    "classifier": {"prototype_weight": 0.0},
}
# Every class has a direction of its own; the model's own are told apart by the first two.
CENTRES = 4 * np.eye(CAPACITY, FEATURES, dtype=np.float32)
LENGTH = np.float32(8)  # of a shift by one, so that shifts are as long as those of norms
FAR = np.float32([0, 0, 0, 0, 0, 9])  # what another context adds to every frame


def frames_of(number, count=1, seed=0, away=0.0):
    """Frames [count, 6] of a class, in a context so far away."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (count, FEATURES))
    return (CENTRES[number] + noise + away * FAR).astype(np.float32)


def stream_of(numbers, count, seed=0, away=0.0):
    """Frames [count, 6] of several classes in turn, and the class of each."""
    labels = np.arange(count) % len(numbers)
    y = np.asarray(numbers)[labels]
    rng = np.random.default_rng(seed)
    x = CENTRES[y] + rng.normal(0, 0.3, (count, FEATURES)) + away * FAR
    return x.astype(np.float32), y


def write_bundle(path, root_share=0.5, labels=OWN, entropy=(9.0, 0.0)):
    """Write the bundle to a folder. root_share: of what is taught. labels: of own classes.

    entropy: mean and deviation on source frames, as it were; no frame here has nine nats.
    """
    (path / "bank").mkdir(parents=True)
    for name in ("predict", "adapt", "learn", "key"):
        onnx.save(_graph(name, len(labels)), path / f"{name}.onnx")
    key = {"mean": np.zeros(FEATURES), "whitening": np.eye(FEATURES), "novelty": np.asarray(3.0)}
    key |= dict(zip(("entropy", "entropy_deviation"), entropy, strict=True))
    content = {
        "source.safetensors": {n: np.asarray(v, np.float32) for n, v in key.items()},
        "reference.safetensors": {},
        "bank/generic.safetensors": BLOCK.zero(),
    }
    for name, arrays in content.items():
        (path / name).write_bytes(pack(arrays))
    files = [file for file in path.rglob("*") if file.is_file()]
    manifest = Manifest(
        name="teachable",
        graphs={name: f"{name}.onnx" for name in ("predict", "adapt", "learn", "key")},
        plans=(Plan("fast", "adapt", "latency", 1 << 20, 1.0),),
        frames=FrameSpec((FEATURES,), BATCH, companions=True, known_companions=4),
        labels=labels,
        block=BLOCK,
        slots=BlockSpec(()),
        hyper_parameters=HYPER_PARAMETERS,
        key=FEATURES,
        stats=(),
        generic_block="bank/generic.safetensors",
        reference="reference.safetensors",
        source="source.safetensors",
        files={
            file.relative_to(path).as_posix(): FileRecord(file.stat().st_size, sha256_file(file))
            for file in files
        },
        teaching=Teaching(CAPACITY, TAUGHT, root_share, READS),
    )
    (path / "manifest.json").write_bytes(to_json(manifest))
    return path


class _Graph:
    """Nodes, and the constants that they need."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def __call__(self, operator, *inputs, to=None, **attributes):
        inputs = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        output = to or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _graph(name, own):
    op, batch = _Graph(), BATCH if name == "learn" else "n"
    inputs = {"x": (FLOAT, [batch, FEATURES])}
    outputs = {"key": (FLOAT, [FEATURES])}
    _key(op, name)
    if name != "key":
        block = {f"block.{a.name}": (FLOAT, list(a.shape)) for a in BLOCK.arrays}
        names = ["prototype_weight", "prior_weight"]
        names += {"adapt": ["learning_rate"], "learn": ["learn_rate"]}.get(name, [])
        inputs |= block | {f"hp.{hp}": (FLOAT, []) for hp in names}
        outputs["logits"] = (FLOAT, [batch, CAPACITY])
        _logits(op, own)
    if name in ("adapt", "learn"):
        outputs |= {f"next.{array}": form for array, form in block.items()}
        outputs |= {"stat.loss": (FLOAT, []), "stat.updated": (FLOAT, [])}
        op("ReduceMean", op("Mul", "x", "x"), keepdims=0, to="stat.loss")
        op("Identity", np.float32(1), to="stat.updated")
        (_adapt if name == "adapt" else _learn)(op)
    if name == "learn":
        inputs |= {"y": (INT, [batch]), "filled": (FLOAT, [])}
    values = [
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(op.nodes, name, *values, list(op.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def _key(op, name):
    if name == "learn":
        total = op("ReduceSum", "x", np.int64([0]), keepdims=0)
        op("Div", total, "filled", to="key")
    else:
        op("ReduceMean", "x", axes=[0], keepdims=0, to="key")


def _logits(op, own):
    """f: the features after the shift. logits: of the classifier, and of prototypes by cosine."""
    op("Add", "x", op("Mul", "block.shift", LENGTH), to="f")
    own = np.arange(CAPACITY) < own
    weights = np.where(own, np.eye(FEATURES, CAPACITY), 0).astype(np.float32)
    classifier = op("MatMul", "f", weights)
    only_own = op("Where", own, classifier, np.float32(-1e4))
    cosine = op("MatMul", _unit(op, "f"), op("Transpose", _unit(op, "block.prototypes.sums")))
    share = op("Mul", op("Mul", cosine, np.float32(10)), "hp.prototype_weight")
    rest = op("Mul", classifier, op("Sub", np.float32(1), "hp.prototype_weight"))
    is_taught = op("Greater", "block.prototypes.frames", np.float32(0))
    mixed = op("Where", is_taught, op("Add", share, rest), only_own)
    op("Add", mixed, op("Mul", "block.remembered_prior", "hp.prior_weight"), to="logits")


def _unit(op, name):
    length = op("ReduceL2", name, axes=[1], keepdims=1)
    return op("Div", name, op("Max", length, np.float32(1e-6)))


def _adapt(op):
    mean = op("Mul", op("ReduceMean", "f", axes=[0], keepdims=0), np.float32(FAR > 0) / LENGTH)
    op("Sub", "block.shift", op("Mul", mean, "hp.learning_rate"), to="next.block.shift")
    op("Add", "block.remembered_frames", np.float32(BATCH), to="next.block.remembered_frames")
    seen = op("ReduceMean", op("Softmax", "logits", axis=1), axes=[0], keepdims=0)
    change = op("Mul", op("Sub", seen, "block.remembered_prior"), np.float32(0.1))
    op("Add", "block.remembered_prior", change, to="next.block.remembered_prior")
    for name in TAUGHT[:2]:
        op("Identity", f"block.{name}", to=f"next.block.{name}")


def _learn(op):
    same = op("Equal", op("Unsqueeze", "y", np.int64([1])), np.arange(CAPACITY)[None])
    chosen = _cast(op, same)
    sums = op("MatMul", op("Transpose", chosen), "f")
    op("Add", "block.prototypes.sums", sums, to="next.block.prototypes.sums")
    counts = op("ReduceSum", chosen, np.int64([0]), keepdims=0)
    op("Add", "block.prototypes.frames", counts, to="next.block.prototypes.frames")
    change = op("Mul", op("ReduceMean", sums, axes=[0], keepdims=0), "hp.learn_rate")
    op("Sub", "block.shift", change, to="next.block.shift")
    for name in ("remembered_frames", "remembered_prior"):
        op("Identity", f"block.{name}", to=f"next.block.{name}")


def _cast(op, name):
    output = f"t{len(op.nodes)}"
    op.nodes.append(helper.make_node("Cast", [name], [output], to=FLOAT))
    return output
