"""What an exported bundle holds, looked at from outside: onnx, onnxruntime and plain bytes."""

import getpass
import hashlib
import json
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgemem.bundle.opening import open_bundle
from edgemem.export.weights import ALIGNMENT, FILE, INLINE_BYTES
from edgemem.runtime.tools.verification import verify

GRAPHS = ("predict", "adapt")
RANDOM = {"Bernoulli", "Dropout", "Multinomial"}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("digits_full", "digits_meta")]


@pytest.fixture(params=["small_full", *SLOW], scope="module")
def bundle(request):
    return request.getfixturevalue(request.param)


def load(bundle, name):
    return onnx.load(bundle.path / f"{name}.onnx", load_external_data=False)


def session(bundle, name):
    path = str(bundle.path / f"{name}.onnx")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def feeds(opened, x, block, *, frozen=False):
    """All inputs of both graphs."""
    manifest = opened.manifest
    values = {f"block.{n}": a for n, a in block.items()}
    values |= {f"opt.{n}": a for n, a in manifest.slots.zero().items()}
    for name, hp in manifest.hyper_parameters.items():
        values[f"hp.{name}"] = np.asarray(hp.frozen if frozen else hp.default, np.float32)
    return values | {"x": x}


def run(onnx_session, values):
    names = [value.name for value in onnx_session.get_outputs()]
    wanted = {value.name: values[value.name] for value in onnx_session.get_inputs()}
    return dict(zip(names, onnx_session.run(names, wanted), strict=True))


def frames(count, seed=0):
    return np.random.default_rng(seed).random((count, 1, 8, 8), np.float32)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_holds_standard_operators_of_inference_only(bundle, name):
    model = load(bundle, name)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not model.functions
    assert not model.training_info
    operators = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""}
    assert not [o for o in operators if o in RANDOM or o.startswith("Random")]
    assert not [o for o in operators if "Grad" in o or o in ("Adam", "Adagrad", "Momentum")]
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert all(len(norm.output) == 1 for norm in norms)  # more would be statistics that move
    assert not [a for norm in norms for a in norm.attribute if a.name == "training_mode" and a.i]
    for operator in operators:
        assert onnx.defs.has(operator, max_inclusive_version=model.opset_import[0].version)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_input_is_used_and_every_output_computed(bundle, name):
    graph = load(bundle, name).graph
    read = {source for node in graph.node for source in node.input}
    computed = {result for node in graph.node for result in node.output}
    assert {value.name for value in graph.input} <= read
    assert {value.name for value in graph.output} <= computed
    prefixes = {"block", "hp"} | ({"opt"} if name == "adapt" else set())
    found = {value.name.split(".")[0] for value in graph.input} - {"x"}
    assert found == prefixes


def test_no_file_tells_where_it_was_made(bundle):
    names = (socket.gethostname(), f"/{getpass.getuser()}/", "site-packages", "Traceback", ".py")
    here = (str(Path.home()) + "/", str(Path.cwd()), str(bundle.path.parent))
    for file in (p for p in bundle.path.rglob("*") if p.suffix in (".onnx", ".json")):
        content = file.read_bytes()
        for secret in (*names, *here, "stack_trace", "fx_node"):
            assert secret.encode() not in content, (file.name, secret)


def test_both_graphs_share_one_weights_file_with_equal_constants_stored_once(bundle):
    content = (bundle.path / FILE).read_bytes()
    places: dict[bytes, set[int]] = {}
    owners: dict[int, set[str]] = {}
    end = 0
    for name in GRAPHS:
        for tensor in load(bundle, name).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(onnx.numpy_helper.to_array(tensor).tobytes()) < INLINE_BYTES
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == FILE
            offset, length = int(place["offset"]), int(place["length"])
            assert offset % ALIGNMENT == 0
            data = content[offset : offset + length]
            assert len(data) == length
            places.setdefault(hashlib.sha256(data).digest(), set()).add(offset)
            owners.setdefault(offset, set()).add(name)
            end = max(end, offset + length)
    assert all(len(offsets) == 1 for offsets in places.values())
    assert end == len(content)
    assert set(GRAPHS) in owners.values()
    assert [p.name for p in bundle.path.iterdir() if p.suffix not in (".onnx", ".json")] != []


def test_each_frozen_kernel_is_in_the_weights_file_as_it_was(bundle):
    content = (bundle.path / FILE).read_bytes()
    kernels = [w for n, w in bundle.network.state_dict().items() if w.dim() == 4]
    large = [w.numpy().tobytes() for w in kernels if w.numel() * 4 >= INLINE_BYTES]
    assert large
    assert all(kernel in content for kernel in large)


def test_adapt_and_predict_give_the_same_logits_bit_for_bit(bundle):
    opened = open_bundle(bundle.path)
    sessions = {name: session(bundle, name) for name in GRAPHS}
    rng = np.random.default_rng(0)
    for scale in (0.0, 0.1, 1.0):
        block = {
            n: a + scale * rng.standard_normal(a.shape).astype(np.float32)
            for n, a in opened.generic.items()
        }
        values = feeds(opened, frames(8, seed=1), block)
        one, other = (run(sessions[name], values) for name in GRAPHS)
        assert one["logits"].tobytes() == other["logits"].tobytes()
        assert one["key"].tobytes() == other["key"].tobytes()


@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_zero_block_and_zero_scalars_are_the_original_network(bundle, count):
    opened = open_bundle(bundle.path)
    x = frames(count, seed=2)
    values = feeds(opened, x, opened.manifest.block.zero(), frozen=True)
    found = run(session(bundle, "predict"), values)["logits"]
    with torch.no_grad():
        expected = bundle.network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_generic_block_is_the_model_that_was_exported(bundle):
    opened = open_bundle(bundle.path)
    for name, value in bundle.model.block().items():
        assert (opened.generic[name] == value.detach().numpy()).all()
    x = frames(8, seed=3)
    found = run(session(bundle, "predict"), feeds(opened, x, opened.generic))
    alpha = torch.tensor(bundle.model.alpha(8))
    with torch.no_grad():
        expected = bundle.model(torch.from_numpy(x), alpha)
    np.testing.assert_allclose(found["logits"], expected.logits.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["key"], expected.key.numpy(), rtol=0, atol=1e-5)


def test_parity_is_met_kept_in_the_manifest_and_true_again_on_this_machine(bundle):
    kept = json.loads((bundle.path / "manifest.json").read_text())["exported_from"]["parity"]
    assert kept == bundle.parity.as_dict()
    assert max(bundle.parity.frozen, bundle.parity.predict, bundle.parity.first_step) <= 1e-5
    assert bundle.parity.after_steps <= 1e-4
    assert bundle.parity.updated == bundle.parity.steps == 20
    assert bundle.parity.predict_equals_adapt
    verify(bundle.path)


@pytest.mark.slow
def test_choices_are_in_the_manifest(digits_meta, digits_full):
    meta, full = (open_bundle(b.path).manifest for b in (digits_meta, digits_full))
    assert (meta.exported_from["gradient"], full.exported_from["gradient"]) == ("meta", "full")
    assert meta.exported_from["data"] == "none"
    assert meta.labels[3] == "three"
    assert full.labels[3] == "3"
    assert meta.hyper_parameters["momentum"].default == 0.5
    assert full.hyper_parameters["momentum"].default == pytest.approx(0.9)
    assert full.hyper_parameters["alpha"].default == pytest.approx(8 / 24)
    assert all(hp.frozen == 0 for hp in full.hyper_parameters.values())
    assert meta.frames.shape == (1, 8, 8)
