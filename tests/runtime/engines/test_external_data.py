"""Constants outside of a graph, found as the onnx package does; all else is refused."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgemem.demo import BUNDLE
from edgemem.errors import BundleError
from edgemem.runtime.engines.external_data import external_tensors

GENUINE = (BUNDLE / "adapt.onnx").read_bytes()
GRAPHS = sorted(  # what is shipped: under build/ others may be writing
    path
    for folder in (BUNDLE.parent, BUNDLE.parents[2] / "examples")
    for path in folder.glob("**/*.edgemem/*.onnx")
)


def outside(name="w", shape=(2, 3), code=TensorProto.FLOAT, **where):
    tensor = TensorProto(name=name, data_type=code, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    where = {"location": "weights.bin", "offset": "0", "length": "24", **where}
    for key, value in where.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def value(name, shape=(2, 3)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(*initializers, nodes=(), functions=()):
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "location", [value("x")], [value("y")], list(initializers))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def found(proto):
    content = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return external_tensors(content, "b/g.onnx")


def reason(proto):
    with pytest.raises(BundleError) as caught:
        found(proto)
    assert caught.value.thing == "b/g.onnx" and caught.value.remedy
    return caught.value.reason


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_they_are_those_that_the_onnx_package_finds(path):
    expected = [
        (item.name, tuple(item.dims), {entry.key: entry.value for entry in item.external_data})
        for item in onnx.load(path, load_external_data=False).graph.initializer
        if item.data_location == TensorProto.EXTERNAL
    ]
    tensors = external_tensors(path.read_bytes(), path.name)
    assert [(t.name, t.shape, t.location, t.offset) for t in tensors] == [
        (name, shape, where["location"], int(where["offset"])) for name, shape, where in expected
    ]
    assert {t.dtype for t in tensors} <= {"<f4", "<i8", "|i1"}


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(getattr(TensorProto, name), np.dtype(name.lower().replace("float", "float32")
        if name == "FLOAT" else name.lower().replace("double", "float64")))
     for name in ("FLOAT", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT16", "UINT16", "INT32",
                  "UINT32", "INT64", "UINT64", "BOOL")],
)  # fmt: skip
def test_every_type_of_numpy_is_read_as_that_type(code, dtype):
    (tensor,) = found(model(outside(code=code, length=None)))
    assert np.dtype(tensor.dtype) == dtype and tensor.shape == (2, 3)


def test_names_and_texts_that_say_location_are_no_tensors_outside():
    inside = helper.make_tensor("location", TensorProto.FLOAT, [2, 3], [1.0] * 6)
    node = helper.make_node("Add", ["x", "location"], ["y"], name="location", doc_string="location")
    node.attribute.append(helper.make_attribute("location", "location"))
    assert found(model(inside, nodes=[node])) == []


def if_node(tensor):
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [value("c")])
    return helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch)


def in_branch(tensor):
    branch = helper.make_graph([], "branch", [], [value("w")], [tensor])
    return helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch)


def sparse():
    proto = model()
    entry = proto.graph.sparse_initializer.add()
    entry.values.CopyFrom(outside())
    return proto


def in_a_list():
    attribute = onnx.AttributeProto(name="all", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(outside())
    node = helper.make_node("Add", ["x", "x"], ["y"])
    node.attribute.append(attribute)
    return model(nodes=[node])


def in_a_function():
    node = helper.make_node("Constant", [], ["out"], value=outside())
    opset = [helper.make_opsetid("", 18)]
    return model(functions=[helper.make_function("own", "F", [], ["out"], [node], opset)])


def in_training():
    proto = model()
    proto.training_info.add().algorithm.initializer.append(outside())
    return proto


@pytest.mark.parametrize(
    "make",
    [
        lambda: model(nodes=[helper.make_node("Constant", [], ["y"], value=outside())]),
        lambda: model(nodes=[if_node(outside())]),
        lambda: model(nodes=[in_branch(outside())]),
        sparse,
        in_a_list,
        in_a_function,
        in_training,
    ],
)
def test_tensors_outside_in_any_other_place_are_refused(make):
    assert "outside of itself" in reason(make())


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (outside(name=""), "keeps ''"),
        (outside(code=TensorProto.BFLOAT16), "of type 16"),
        (outside(code=TensorProto.STRING), "of type 8"),
        (outside(code=99), "of type 99"),
        (outside(offset="-1"), "at '-1'"),
        (outside(offset="1" * 400), "at '1111"),
        (outside(offset="x"), "at 'x'"),
        (outside(length="20"), "takes 20 bytes, its shape 24"),
        (outside(shape=(1 << 62, 1 << 62)), "takes 24 bytes"),
        (outside(shape=(1,) * 17), "a constant of 17 dimensions"),
        (outside(shape=((1 << 62),) * 100_000), "a constant of 100000 dimensions"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tensor, why):
    assert why in reason(model(tensor))


def wrapped(tag, content):
    """A field of a message that holds `content`."""
    size, length = len(content), b""
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([tag]) + length + bytes([size]) + content


MODEL_GRAPH, GRAPH_NODE, NODE_ATTRIBUTE, ATTRIBUTE_GRAPH = 0x3A, 0x0A, 0x2A, 0x32


def test_one_name_twice_and_two_graphs_are_refused():
    assert "two constants named 'w'" in reason(model(outside(), outside()))
    second = wrapped(MODEL_GRAPH, model(outside(name="v")).graph.SerializeToString())
    merged = model(outside()).SerializeToString() + second
    assert len(onnx.load_from_string(merged).graph.initializer) == 2
    assert "two graphs" in reason(merged)


def test_graphs_within_graphs_come_to_an_end():
    node = in_branch(outside())
    for _ in range(12):
        branch = helper.make_graph([node], "branch", [], [value("y")])
        node = helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch)
    assert "outside of itself" in reason(model(nodes=[node]))
    content = b"location"
    for _ in range(400):
        for tag in (ATTRIBUTE_GRAPH, NODE_ATTRIBUTE, GRAPH_NODE):
            content = wrapped(tag, content)
    assert "within each other" in reason(wrapped(MODEL_GRAPH, content))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content):
    try:
        found(content)
    except BundleError as error:
        assert error.reason


@given(st.data())
def test_a_damaged_graph_is_read_or_refused(data):
    content = bytearray(GENUINE[: data.draw(st.integers(0, len(GENUINE)))])
    for position in data.draw(st.lists(st.integers(0, len(GENUINE) - 1), max_size=4)):
        if position < len(content):
            content[position] = data.draw(st.integers(0, 255))
    try:
        found(bytes(content))
    except BundleError as error:
        assert error.reason
