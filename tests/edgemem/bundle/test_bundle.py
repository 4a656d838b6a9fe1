import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.block import pack, unpack
from edgemem.bundle.manifest_file import from_json, to_json
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE

names = st.text("abc.[]/0", min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(st.dictionaries(names, shapes, max_size=5), st.integers(0, 99))
def test_arrays_survive_packing_and_their_order_does_not_matter(spec, seed):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.items()}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    content = pack(arrays)
    assert content == pack(dict(reversed(arrays.items())))
    found = unpack(content, "x", edgemem.BundleError, "y")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_a_manifest_survives_writing_and_reading():
    manifest = open_bundle(BUNDLE).manifest
    assert from_json(to_json(manifest), "x") == manifest


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_or_missing_byte_is_noticed(data, bundle, tmp_path):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from([p for p in files if p.name != "manifest.json"]))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    path.write_bytes(content)
    with pytest.raises(edgemem.BundleError, match=path.name):
        open_bundle(folder)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_manifest_never_ends_in_another_error(data, bundle):
    content = bytearray((BUNDLE / "manifest.json").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    (bundle / "manifest.json").write_bytes(content)
    try:
        open_bundle(bundle)
    except edgemem.BundleError as error:
        assert error.reason and error.remedy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(format_version=2), "format version 2"),
        (lambda m: m.update(format="zip"), "not the manifest"),
        (lambda m: m["graphs"].pop("predict"), "no graph named 'predict'"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "leaves the folder"),
        (lambda m: m["files"].update({"/etc/passwd": {"size": 1, "sha256": ""}}), "leaves"),
        (lambda m: m["files"].update({"a\\b": {"size": 1, "sha256": ""}}), "leaves the folder"),
        (lambda m: m["files"].update({"gone": {"size": 1, "sha256": ""}}), "is missing"),
        (lambda m: m["frames"].update(batch=1 << 40), "too large"),
        (lambda m: m["block"][0].update(shape=[1 << 40]), "larger than the generic block"),
        (lambda m: m["slots"][0].update(shape=[1 << 40]), "larger than four blocks"),
        (lambda m: m["block"][0].update(dtype="object"), "'object' is none of"),
        (lambda m: m["block"].pop(), "not in the block specification"),
    ],
)
def test_a_lying_manifest_is_refused_with_its_reason(bundle, seal, change, reason):
    seal(bundle, change)
    with pytest.raises(edgemem.BundleError, match=reason):
        open_bundle(bundle)


def test_unlisted_files_are_refused(bundle):
    (bundle / "extra.bin").write_bytes(b"x")
    with pytest.raises(edgemem.BundleError, match=r"extra\.bin: is not in the manifest"):
        open_bundle(bundle)


def test_a_block_with_nan_is_refused(bundle, seal):
    path = bundle / "bank/generic.safetensors"
    arrays = unpack(path.read_bytes(), "x", edgemem.BundleError, "y")
    next(iter(arrays.values())).reshape(-1)[0] = np.nan
    path.write_bytes(pack(arrays))
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match="NaN"):
        open_bundle(bundle)


def test_a_graph_that_does_not_match_the_block_is_refused(bundle, seal, digits_stream):
    path = bundle / "bank/generic.safetensors"
    arrays = unpack(path.read_bytes(), "x", edgemem.BundleError, "y")
    first = json.loads((bundle / "manifest.json").read_text())["block"][0]["name"]
    arrays[first] = arrays[first].reshape(-1, 1)
    path.write_bytes(pack(arrays))
    seal(bundle, lambda m: m["block"][0].update(shape=list(arrays[first].shape)))
    with pytest.raises(edgemem.BundleError, match="the manifest says"):
        edgemem.open(bundle)


def test_external_data_outside_of_the_bundle_is_not_read(bundle, seal, tmp_path):
    import onnx

    model = onnx.load(bundle / "predict.onnx", load_external_data=False)
    (tmp_path / "weights.bin").write_bytes((bundle / "weights.bin").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (bundle / "predict.onnx").write_bytes(model.SerializeToString())
    seal(bundle)
    with pytest.raises(edgemem.BundleError, match="keeps weights at .*not beside itself"):
        edgemem.open(bundle)
