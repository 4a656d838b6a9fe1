import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemem.block import DTYPES, ArraySpec, BlockSpec, is_finite, pack, unpack
from edgemem.errors import InputError, StateError

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
array = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
blocks = st.dictionaries(names.filter(lambda name: name != "__metadata__"), array, max_size=5)
specs = st.lists(
    st.builds(ArraySpec, names, hnp.array_shapes(max_dims=3), st.sampled_from(DTYPES)),
    max_size=4,
    unique_by=lambda spec: spec.name,
).map(lambda arrays: BlockSpec(tuple(arrays)))


def exact(arrays):
    """Everything there is to know about arrays, NaN payloads included."""
    return {n: (a.dtype.name, a.shape, a.tobytes()) for n, a in arrays.items()}


def reopened(content):
    return unpack(content, "thing.safetensors", StateError, "Do this")


@given(blocks)
def test_what_is_packed_is_unpacked_bit_for_bit(block):
    assert exact(reopened(pack(block))) == exact(block)


@given(blocks.flatmap(lambda b: st.tuples(st.just(b), st.permutations(list(b)))))
def test_the_same_arrays_in_any_order_give_the_same_bytes(case):
    block, order = case
    assert pack({name: block[name] for name in order}) == pack(block)


def test_packed_bytes_are_the_documented_format_to_the_byte():
    arrays = {"b": np.array([1.5, -2.0], np.float32), "a": np.array(3, np.int64)}
    header = {
        "a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    expected = struct.pack("<Q", len(text)) + text + struct.pack("<qff", 3, 1.5, -2.0)
    assert pack(arrays) == expected


def test_views_pack_like_the_copy_of_what_they_show():
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (base.T, base[::2, ::-1], np.broadcast_to(base[0], (3, 6))):
        assert pack({"a": view}) == pack({"a": view.copy(order="C")})


@given(blocks, st.data())
def test_every_truncation_is_refused_with_thing_reason_and_remedy(block, data):
    content = pack(block)
    size = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(StateError) as caught:
        reopened(content[:size])
    assert caught.value.thing == "thing.safetensors"
    assert "not readable safetensors" in caught.value.reason
    assert caught.value.remedy == "Do this"


@given(blocks, st.data())
def test_a_flipped_byte_gives_the_chosen_error_or_arrays_whose_sizes_add_up(block, data):
    content = bytearray(pack(block))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        found = reopened(bytes(content))
    except StateError as error:
        assert "not readable safetensors" in error.reason
    else:
        header = struct.unpack_from("<Q", content)[0]
        assert 8 + header + sum(array.nbytes for array in found.values()) == len(content)


@given(specs)
def test_the_zero_block_fits_its_specification_and_has_its_size(spec):
    zero = spec.zero()
    assert spec.mismatch(zero) is None
    assert sum(array.nbytes for array in zero.values()) == spec.nbytes


def test_the_zero_block_holds_the_zero_values():
    spec = BlockSpec((ArraySpec("scale", (2, 3), "float32", 1.0), ArraySpec("n", (), "int64", 7)))
    zero = spec.zero()
    assert (zero["scale"] == 1).all() and zero["n"] == 7


def test_sizes_are_computed_without_reserving_memory():
    spec = ArraySpec("huge", (1 << 40, 1 << 40), "float32")
    assert spec.nbytes == 4 << 80


SPEC = BlockSpec((ArraySpec("a", (2,), "float32"), ArraySpec("b", (1, 3), "int8")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a": None}, "array 'a' is missing"),
        ({"c": np.zeros(1)}, "array 'c' is not in the block specification"),
        ({"a": np.zeros(3, np.float32)}, r"array 'a' is float32[3], not float32[2]"),
        ({"b": np.zeros((1, 3))}, r"array 'b' is float64[1, 3], not int8[1, 3]"),
    ],
)
def test_a_mismatch_names_the_array_and_what_was_expected(change, reason):
    arrays = {n: a for n, a in {**SPEC.zero(), **change}.items() if a is not None}
    assert SPEC.mismatch(arrays) == reason


float_specs = st.lists(
    st.builds(ArraySpec, names, hnp.array_shapes(min_dims=0, max_dims=3), st.just("float32")),
    max_size=4,
    unique_by=lambda spec: spec.name,
).map(lambda arrays: BlockSpec(tuple(arrays)))


@given(float_specs, st.data())
def test_a_block_survives_being_one_vector(spec, data):
    block = {s.name: data.draw(hnp.arrays(s.dtype, s.shape)) for s in spec.arrays}
    shuffled = {name: np.asarray(block[name], order="F") for name in reversed(block)}
    values = spec.flatten(shuffled)
    assert (values.dtype, values.shape) == (np.float32, (spec.elements,))
    parts = [block[s.name].tobytes() for s in spec.arrays]
    assert values.tobytes() == b"".join(parts)
    found = spec.unflatten(values)
    assert exact(found) == exact(block) and list(found) == [s.name for s in spec.arrays]
    values[:] = 7
    assert exact(found) == exact(block)


def test_what_is_no_block_or_vector_of_the_bundle_is_refused():
    with pytest.raises(InputError, match="array 'b' is missing"):
        SPEC.flatten({"a": np.zeros(2, np.float32)})
    for shape in ((4,), (6,), (5, 1), ()):
        with pytest.raises(InputError, match="Pass 5 numbers"):
            SPEC.unflatten(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_value_makes_a_block_non_finite(value):
    good = {"a": np.zeros((3, 4), np.float32), "n": np.arange(3)}
    assert is_finite(good)
    good["a"][2, 3] = value
    assert not is_finite(good)
