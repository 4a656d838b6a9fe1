import copy
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem import manifest as m
from edgemem.block import DTYPES, ArraySpec, BlockSpec
from edgemem.demo import BUNDLE
from edgemem.errors import BundleError

GENUINE = (BUNDLE / "manifest.json").read_bytes()
WHERE = "x.edgemem/manifest.json"

text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
shape = st.lists(st.integers(1, 9), max_size=3).map(tuple)
spec = st.builds(ArraySpec, text, shape, st.sampled_from(DTYPES), finite, st.floats(0, 1))
block = st.lists(spec, max_size=3, unique_by=lambda s: s.name).map(lambda a: BlockSpec(tuple(a)))
record = st.builds(m.FileRecord, st.integers(1 << 20, 1 << 40), text)
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
    hyper_parameters=st.dictionaries(text, st.builds(m.HyperParameter, finite, finite), max_size=3),
    key=st.integers(0, 1 << 20),
    stats=st.lists(text, max_size=3).map(tuple),
    generic_block=st.just("generic"),
    reference=st.just("reference"),
    source=st.sampled_from([None, "reference"]),
    files=st.fixed_dictionaries(
        {"predict.onnx": record, "generic": record, "reference": record}, optional={"x/y": record}
    ),
    exported_from=st.dictionaries(text, st.one_of(text, finite, st.lists(text)), max_size=3),
)
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
    return json.dumps(document).encode()


@given(manifests)
def test_what_is_written_is_read_back_equal_and_to_the_same_bytes(manifest):
    content = m.to_json(manifest)
    assert m.from_json(content, WHERE) == manifest
    assert m.to_json(m.from_json(content, WHERE)) == content


def test_the_packaged_manifest_is_the_bytes_that_this_version_writes():
    assert m.to_json(m.from_json(GENUINE, WHERE)) == GENUINE


@given(st.sampled_from(PLACES), anything)
def test_any_value_replaced_by_any_other_is_read_or_refused_by_name(path, value):
    try:
        found = m.from_json(changed(path, value), WHERE)
    except BundleError as error:
        assert error.thing == WHERE and error.remedy
    else:
        assert m.from_json(m.to_json(found), WHERE) == found


@given(st.data())
def test_flipped_and_missing_bytes_are_read_or_refused_never_another_error(data):
    content = bytearray(GENUINE[: data.draw(st.integers(0, len(GENUINE)))])
    for position in data.draw(st.lists(st.integers(0, len(GENUINE) - 1), max_size=3)):
        if position < len(content):
            content[position] = data.draw(st.integers(0, 255))
    try:
        found = m.from_json(bytes(content), WHERE)
    except BundleError as error:
        assert error.thing == WHERE and error.remedy
    else:
        assert "predict" in found.graphs


@pytest.mark.parametrize("name", [k for k in json.loads(GENUINE) if k != "written_by"])
def test_every_field_is_needed_and_named_when_missing(name):
    with pytest.raises(BundleError, match=name if "format" not in name else "format|manifest"):
        m.from_json(changed((name,), REMOVED), WHERE)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1e9])
def test_another_format_version_is_refused_with_the_version_this_one_reads(version):
    with pytest.raises(BundleError) as caught:
        m.from_json(changed(("format_version",), version), WHERE)
    assert f"format version {version!r}" in caught.value.reason
    assert f"reads {m.FORMAT_VERSION}" in caught.value.reason
    assert "Update EdgeMem" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"[]", "not the manifest"),
        (b'{"format": "onnx"}', "not the manifest"),
    ],
)
def test_what_is_not_a_manifest_says_so(content, reason):
    with pytest.raises(BundleError, match=reason):
        m.from_json(content, WHERE)


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
        (("block", 0, "dtype"), "float64", "dtype 'float64'"),
        (("block", 0, "dtype"), "object", "dtype 'object'"),
        (("block", 0, "zero"), float("inf"), "finite"),
        (("block", 1, "name"), json.loads(GENUINE)["block"][0]["name"], "same name"),
        (("hyper_parameters", "alpha", "default"), float("nan"), "finite"),
        (("graphs",), {"adapt": "adapt.onnx"}, "no graph named 'predict'"),
        (("graphs", "predict"), "/etc/passwd", "'/etc/passwd' is not listed under files"),
        (("plans",), [], "a graph named 'adapt', but no plan"),
        (("plans", 0, "graph"), "learn", "a plan with graph 'learn', which is not listed"),
        (("plans", 0, "profile"), "turbo", "profile 'turbo'"),
        (("plans", 0, "bytes"), 0, "0 is not a count"),
        (("plans", 0, "milliseconds"), -1.0, "-1.0 is not above zero"),
        (("generic_block",), "other", "'other' is not listed under files"),
        (("reference",), "other", "'other' is not listed under files"),
        (("files", "weights.bin", "size"), -1, "not a count"),
        (("files", "weights.bin", "sha256"), 5, "not text"),
    ],
)
def test_a_lie_is_refused_by_name_before_memory_is_reserved(path, value, reason):
    content = changed(path, value)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            m.from_json(content, WHERE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.thing == WHERE and reason in caught.value.reason
    assert "Export the bundle again" in caught.value.remedy
