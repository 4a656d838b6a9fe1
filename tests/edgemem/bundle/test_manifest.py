import copy
import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealing import sealed

from edgemem.block import DTYPES, ArraySpec, BlockSpec
from edgemem.bundle import manifest as m
from edgemem.bundle.manifest_file import from_json, to_json
from edgemem.bundle.sealed_document import FORMAT_VERSION, MOST_BYTES
from edgemem.demo import BUNDLE
from edgemem.errors import BundleError

GENUINE = (BUNDLE / "manifest.json").read_bytes()
WHERE = "x.edgemem/manifest.json"

text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
single = st.floats(width=32, allow_nan=False, allow_infinity=False)
shape = st.lists(st.integers(1, 9), max_size=3).map(tuple)
zero = st.integers(-128, 127).map(float)
spec = st.builds(ArraySpec, text, shape, st.sampled_from(DTYPES), zero, st.booleans())
block = st.lists(spec, max_size=3, unique_by=lambda s: s.name).map(lambda a: BlockSpec(tuple(a)))
record = st.builds(m.FileRecord, st.integers(1 << 20, 1 << 31), text)
small = st.builds(m.FileRecord, st.integers(1 << 15, 1 << 16), text)  # of what is read whole
plan = st.builds(
    m.Plan,
    text,
    st.sampled_from(["predict", "key"]),
    st.sampled_from(m.PROFILES),
    st.integers(1, 1 << 40),
    st.floats(1e-3, 1e6),
)
manifests = st.builds(
    m.Manifest,
    name=text,
    graphs=st.just({"predict": "predict.onnx", "key": "predict.onnx"}),
    plans=st.lists(plan, max_size=3).map(tuple),
    frames=st.builds(
        m.FrameSpec,
        shape,
        st.integers(1, 64),
        st.booleans(),
        st.integers(0, 64),
        st.floats(0.5, 1e6),
    )
    | st.builds(
        m.FrameSpec,
        st.just((2, 8)),
        st.integers(1, 64),
        st.booleans(),
        st.integers(0, 64),
        source_range=st.tuples(
            *[st.tuples(st.floats(*r), st.floats(*r)) for r in ((-9, 0), (0, 9))]
        ),
    ),
    labels=st.lists(text, max_size=3).map(tuple),
    block=block,
    slots=block,
    hyper_parameters=st.dictionaries(text, st.builds(m.HyperParameter, single, single), max_size=3),
    key=st.integers(0, 1 << 16),
    stats=st.lists(text, max_size=3).map(tuple),
    generic_block=st.just("generic"),
    reference=st.just("reference"),
    source=st.sampled_from([None, "reference"]),
    files=st.fixed_dictionaries(
        {"predict.onnx": record, "generic": small, "reference": small}, optional={"x/y": record}
    ),
    exported_from=st.dictionaries(text, st.one_of(text, finite, st.lists(text)), max_size=3),
)
output = st.builds(m.OutputSpec, text, st.lists(st.integers(1, 9), max_size=3).map(tuple))
output |= st.builds(m.OutputSpec, text, st.just((3, 4)), st.integers(0, 2))
tasks = st.builds(
    m.TaskSpec,
    st.sampled_from(m.TASKS[1:]),
    st.lists(output, min_size=1, max_size=3, unique_by=lambda o: o.name).map(tuple),
    st.just(3),
    st.just((0.5, -1.0, 2.0)),
    st.just((0.5, 1.0, 2.0)),
    st.floats(0, 1e6),
)
tasks |= st.builds(m.TaskSpec, st.just("dense"), st.just((m.OutputSpec("a", (2,)),)), st.just(9))
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([1 << 47, 1 << 62, -1, "", "predict.onnx", "float64", "../x"]),
    st.text(max_size=5),
)
key = st.text(max_size=3)
anything = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(key, inner, max_size=2)
)
REMOVED = object()


def places(value, path=()):
    """The path of every value in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [path for path in places(json.loads(GENUINE)) if path]


def changed(path, value):
    document = json.loads(GENUINE)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if value is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = copy.deepcopy(value)
    return sealed(document)


@given(manifests)
def test_what_is_written_is_read_back_equal_and_to_the_same_bytes(manifest):
    content = to_json(manifest)
    assert from_json(content, WHERE) == manifest
    assert to_json(from_json(content, WHERE)) == content


@given(manifests, tasks)
def test_so_is_what_the_outputs_are(manifest, task):
    manifest = replace(manifest, task=task, labels=(), familiar=False)
    content = to_json(manifest)
    assert from_json(content, WHERE) == manifest
    assert manifest.answers == ("summary", *(f"out.{o.name}" for o in task.outputs))


def test_of_classes_nothing_is_said():
    assert "task" not in json.loads(GENUINE)
    assert from_json(GENUINE, WHERE).answers == ("logits",)


OUTPUT = {"name": "a", "shape": [4], "axis": 0}
TASK = {
    "kind": "regression",
    "outputs": [OUTPUT],
    "summary": 2,
    "mean": [],
    "deviation": [],
    "limit": 0.0,
}


@pytest.mark.parametrize(
    ("change", "others", "reason"),
    [
        ({}, {}, "labels, teaching or familiar frames, but the task is regression"),
        ({}, {"labels": []}, "familiar frames"),
        ({"kind": "classes"}, {}, "is none of multilabel"),
        ({"kind": "poses"}, {}, "is none of"),
        ({"outputs": []}, {}, "outputs"),
        ({"outputs": [OUTPUT, OUTPUT]}, {}, "two outputs have the same name"),
        ({"outputs": [OUTPUT | {"axis": 2}]}, {}, "output 'a' has no axis 2"),
        ({"outputs": [OUTPUT | {"shape": [1 << 30]}]}, {}, "too large"),
        ({"summary": 257}, {}, "count from 1 to 256"),
        ({"deviation": [1.0]}, {}, "mean or deviation"),
        ({"deviation": [1.0, 0.0]}, {}, "is not above zero"),
        ({"deviation": [1.0, 1.0]}, {}, "mean or deviation"),
        ({"limit": -1.0}, {}, "limit -1.0"),
        ({"kind": "dense"}, {}, "labels, teaching or familiar frames, but the task is dense"),
        ([], {}, "is not an object"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(change, others, reason):
    document = json.loads(GENUINE) | others
    document["task"] = TASK | change if isinstance(change, dict) else change
    with pytest.raises(BundleError, match=reason):
        from_json(sealed(document), WHERE)


@pytest.mark.parametrize(
    ("limit", "task", "reason"),
    [
        (0.0, None, "is not above zero"),
        ("1", None, "surer_below"),
        (1.0, TASK, "a limit of certainty, but the task is regression"),
    ],
)
def test_a_limit_of_certainty_that_does_not_fit_is_refused(limit, task, reason):
    document = json.loads(GENUINE) | {"surer_below": limit}
    document |= {} if task is None else {"task": task, "labels": [], "familiar": False}
    with pytest.raises(BundleError, match=reason):
        from_json(sealed(document), WHERE)


def test_a_limit_of_certainty_is_read_as_it_was_written():
    given = replace(from_json(GENUINE, WHERE), surer_below=0.75)
    assert from_json(to_json(given), WHERE) == given


def test_the_packaged_manifest_is_the_bytes_that_this_version_writes():
    assert to_json(from_json(GENUINE, WHERE)) == GENUINE


@given(st.sampled_from(PLACES), anything)
def test_any_value_replaced_by_any_other_is_read_or_refused_by_name(path, value):
    try:
        found = from_json(changed(path, value), WHERE)
    except BundleError as error:
        assert error.thing == WHERE and error.remedy
    else:
        assert from_json(to_json(found), WHERE) == found


def one_array(dtype, zero):
    return {"name": "a", "shape": [1], "dtype": dtype, "zero": zero, "learns": False}


def refuses(content):
    try:
        from_json(content, WHERE)
    except BundleError as error:
        return error.thing == WHERE and bool(error.reason and error.remedy)
    return False


@given(st.data())
def test_bytes_that_are_flipped_missing_or_more_are_refused(data):
    content = bytearray(GENUINE[: data.draw(st.integers(0, len(GENUINE)))])
    for position in data.draw(st.lists(st.integers(0, len(GENUINE) - 1), max_size=3)):
        if position < len(content):
            content[position] = data.draw(st.integers(0, 255))
    content += data.draw(st.sampled_from([b"", b"", b" ", b"\n", b"\0", GENUINE]))
    assert bytes(content) == GENUINE or refuses(bytes(content))


def test_every_flip_of_one_bit_is_refused(monkeypatch):
    accepted = []
    for position in range(8 * len(GENUINE)):
        content = bytearray(GENUINE)
        content[position // 8] ^= 1 << position % 8
        if not refuses(bytes(content)):
            accepted.append(position)
    assert not accepted


def test_a_flip_that_reads_the_same_is_refused_too():
    document = json.loads(GENUINE) | {"name": "caf\u00e9"}
    document["hyper_parameters"]["alpha"]["default"] = 1e-07
    content = sealed(document)
    assert from_json(content, WHERE).name == "caf\u00e9"
    for same in (b"1E-07", b"caf\\u00E9"):
        assert refuses(content.replace(same.lower().replace(b"u00E9", b"u00e9"), same))


@pytest.mark.parametrize(
    "name", [k for k in json.loads(GENUINE) if k not in ("written_by", "sha256")]
)
def test_every_field_is_needed_and_named_when_missing(name):
    with pytest.raises(BundleError, match=name if "format" not in name else "format|manifest"):
        from_json(changed((name,), REMOVED), WHERE)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1e9])
def test_another_format_version_is_refused_with_the_version_this_one_reads(version):
    with pytest.raises(BundleError) as caught:
        from_json(changed(("format_version",), version), WHERE)
    assert f"format version {version!r}" in caught.value.reason
    assert f"reads {FORMAT_VERSION}" in caught.value.reason
    assert "Update EdgeMem" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b"[]"])
def test_what_has_no_check_sum_is_refused_unread(content):
    with pytest.raises(BundleError, match="does not begin with its check sum"):
        from_json(content, WHERE)


def test_another_format_is_no_manifest():
    with pytest.raises(BundleError, match="not the manifest"):
        from_json(changed(("format",), "onnx"), WHERE)


def test_a_manifest_that_is_too_large_is_refused(monkeypatch):
    content = changed(("exported_from", "notes"), ["x" * 1000] * (MOST_BYTES // 1000))
    with pytest.raises(BundleError, match="too large"):
        from_json(content, WHERE)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("frames", "shape"), [1 << 20, 1 << 20], "too large"),
        (("frames", "batch"), 1 << 40, "too large"),
        (("frames", "source_range"), [[0.0, 0.0], [1.0, 1.0]], "one value for each channel"),
        (("block", 0, "shape"), [1 << 40, 1 << 40], "larger than the generic block"),
        (("slots", 0, "shape"), [1 << 40, 1 << 40], "larger than four blocks"),
        (("frames", "batch"), 1 << 60, "not a count"),
        (("frames", "batch"), 0, "not a count"),
        (("frames", "batch"), -4, "not a count"),
        (("frames", "batch"), 16.0, "not a count"),
        (("frames", "batch"), True, "not a count"),
        (("frames", "uint8_scale"), 0, "above zero"),
        (("frames", "known_companions"), -1, "not a count"),
        (("frames", "uint8_scale"), float("nan"), "finite"),
        (("frames", "uint8_scale"), 1e-300, "uint8_scale 1e-300"),
        (("frames", "uint8_scale"), 1e300, "uint8_scale 1e+300"),
        (("frames", "source_range"), [[0.0], [1e39]], "too large for float32"),
        (("hyper_parameters", "alpha", "default"), 1e39, "too large for float32"),
        (("hyper_parameters", "alpha", "frozen"), -1e39, "too large for float32"),
        (("block", 0, "zero"), 1e39, "too large for float32"),
        (("slots",), [one_array("int8", 128)], "of int8 cannot be 128.0"),
        (("slots",), [one_array("int8", 0.5)], "of int8 cannot be 0.5"),
        (("slots",), [one_array("int64", 1e30)], "of int64 cannot be 1e+30"),
        (("slots",), [one_array("float16", 70_000)], "of float16 cannot be 70000.0"),
        (("block", 0, "dtype"), "float64", "'float64' is none of float32"),
        (("block", 0, "dtype"), "object", "'object' is none of float32"),
        (("block", 0, "zero"), float("inf"), "finite"),
        (("block", 1, "name"), json.loads(GENUINE)["block"][0]["name"], "same name"),
        (("hyper_parameters", "alpha", "default"), float("nan"), "finite"),
        (("graphs",), {"adapt": "adapt.onnx"}, "no graph named 'predict'"),
        (("graphs", "predict"), "/etc/passwd", "'/etc/passwd' is not listed under files"),
        (("plans",), [], "a graph named 'adapt', but no plan"),
        (("plans", 0, "graph"), "learn", "a plan with graph 'learn', which is not listed"),
        (("plans", 0, "profile"), "turbo", "'turbo' is none of latency"),
        (("plans", 0, "bytes"), 0, "0 is not a count from 1"),
        (("plans", 0, "milliseconds"), -1.0, "plans[0].milliseconds: -1.0 is not above zero"),
        (("generic_block",), "other", "'other' is not listed under files"),
        (("reference",), "other", "'other' is not listed under files"),
        (("files", "weights.bin", "size"), -1, "not a count"),
        (("files", "weights.bin", "sha256"), 5, "not text"),
        (("frames", "shape"), [(1 << 48) - 1] * 400_000, "400,000 entries, not 0 to 8"),
        (("frames", "shape"), [(1 << 48) - 1] * 8, "too large"),
        (("block", 0, "shape"), [1] * 9, "9 entries, not 0 to 8"),
        (("block",), [{}] * 20_000, "20,000 entries"),
        (("labels",), ["x"] * 70_000, "entries"),
        (("labels",), ["x" * 1025], "longer than 1024 characters"),
        (("labels",), ["\ud800"], "half a character"),
        (("graphs",), {str(k): "x" for k in range(300)}, "300 entries"),
        (("files",), {str(k): {} for k in range(5000)}, "5,000 entries"),
        (("key",), 1 << 30, "not a count from 0 to 65536"),
        (("files", "bank/generic.safetensors", "size"), 1 << 30, "its arrays take"),
        (("files", "weights.bin", "size"), 1 << 40, "more than 17,179,869,184"),
        (("files", "predict.onnx", "size"), 3 << 30, "more than 2,147,483,648"),
        (("files", "reference.safetensors", "size"), 1 << 30, "its arrays take"),
        (("files", "source.safetensors", "size"), 1 << 30, "their arrays take"),
        (("exported_from",), {"a": ["x" * 1000] * 2000}, "more than 1,048,576 characters"),
        (("exported_from",), [], "is not an object"),
        (("exported_from", "parts"), [5], "exported_from.parts[0]: 5 is not text"),
        (("exported_from", "parts"), 5, "5 is not a list"),
        (("exported_from", "\ud800"), 5, "half a character"),
        (("exported_from", "x"), {"y": ["\udfff"]}, "half a character"),
        (("exported_from", "x"), float("inf"), "finite"),
    ],
)
def test_a_lie_is_refused_by_name_before_memory_is_reserved(path, value, reason):
    content = changed(path, value)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            from_json(content, WHERE)
        # What the text itself takes, read, and no more.
        assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 8 * len(content)
    finally:
        tracemalloc.stop()
    assert caught.value.thing == WHERE and reason in caught.value.reason
    assert "Export the bundle again" in caught.value.remedy
