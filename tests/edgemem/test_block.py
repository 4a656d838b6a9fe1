import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemem.block import DTYPES, ArraySpec, Block, BlockSpec, is_finite, pack, unpack
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


values = st.floats(-1e6, 1e6, width=32)
float_blocks = st.dictionaries(names, hnp.arrays("float32", shapes, elements=values), max_size=4)


def changed_part(draw, arrays):
    """Arrays like some of a block's, with other numbers."""
    chosen = [name for name in arrays if draw(st.booleans())]
    return {n: draw(hnp.arrays("float32", arrays[n].shape, elements=values)) for n in chosen}


@given(blocks)
def test_a_block_is_what_it_was_made_of_and_stays_so(arrays):
    given_arrays, expected = dict(arrays), exact(arrays)
    block = Block(given_arrays)
    given_arrays.clear()
    assert exact(block) == expected and list(block) == list(arrays)
    assert not any(array.flags.writeable for array in block.values())
    assert all(block[name] is array for name, array in arrays.items())
    with pytest.raises(TypeError):
        block["a"] = np.zeros(1)
    with pytest.raises(AttributeError):
        block.more = 1


def test_nobody_changes_the_numbers_of_a_block():
    array = np.zeros(3, np.float32)
    block = Block({"a": array, "b": np.asarray(np.float32(1))})
    for change in (block["a"], block["b"], array):
        with pytest.raises(ValueError, match="read-only"):
            change[...] = 2


def test_two_blocks_are_equal_only_if_they_are_one():
    arrays = {"a": np.zeros(2)}
    one, other = Block(arrays), Block(arrays)
    same = one
    assert one == same and one != other and len({one, other, same}) == 2


@given(float_blocks, st.data())
def test_a_change_is_added_and_taken_away_array_by_array(arrays, data):
    block = Block(arrays)
    change = changed_part(data.draw, arrays)
    for after, expected in (
        (block + change, {n: arrays[n] + part for n, part in change.items()}),
        (block - change, {n: arrays[n] - part for n, part in change.items()}),
        (block.replace(change), change),
    ):
        assert list(after) == list(arrays)
        for name, array in after.items():
            assert isinstance(array, np.ndarray) and not array.flags.writeable
            if name in change:
                assert exact({"": array}) == exact({"": np.asarray(expected[name])})
            else:
                assert array is block[name]
    assert exact(block) == exact(arrays)


def test_a_change_of_what_a_block_does_not_have_is_an_error():
    block = Block({"a": np.zeros(2)})
    for change in (lambda: block + {"b": np.zeros(2)}, lambda: block - {"b": np.zeros(2)}):
        with pytest.raises(KeyError):
            change()
    assert block.replace({}) is block


@given(float_blocks, st.data())
def test_a_part_has_the_same_arrays_and_zeros_have_their_shapes(arrays, data):
    block = Block(arrays)
    chosen = [name for name in arrays if data.draw(st.booleans())]
    part, zeros = block.part(chosen), block.zeros()
    assert list(part) == chosen and all(part[name] is block[name] for name in chosen)
    assert exact(zeros) == exact({n: np.zeros(a.shape, a.dtype) for n, a in arrays.items()})
    assert (block + zeros).has_values_of(block) and (block - block).has_values_of(zeros)
    with pytest.raises(KeyError):
        block.part(["no such array"])


@given(blocks, st.data())
def test_blocks_have_the_same_values_if_all_names_and_numbers_are_the_same(arrays, data):
    block, copy = Block(arrays), {name: array.copy() for name, array in arrays.items()}
    numbers = all(not np.isnan(array).any() for array in arrays.values())
    assert block.has_values_of(block)
    assert block.has_values_of(copy) == numbers
    if arrays:
        name = data.draw(st.sampled_from(list(arrays)))
        rest = {n: array for n, array in copy.items() if n != name}
        assert not block.has_values_of(rest) and not Block(rest).has_values_of(copy)
        renamed = {f"{n}'": array for n, array in copy.items()}
        assert not block.has_values_of(renamed)
        if copy[name].size:
            copy[name].flat[0] = 1 if copy[name].flat[0] != 1 else 0
            assert not block.has_values_of(copy)


def test_numbers_of_another_shape_are_other_values():
    block = Block({"a": np.zeros((2, 1))})
    assert not block.has_values_of({"a": np.zeros((1, 2))})
    assert not block.has_values_of({"a": np.zeros(2)})
    assert Block({}).has_values_of({}) and not Block({}).has_values_of(block)


@given(blocks)
def test_prefixes_come_off_as_they_went_on(arrays):
    full = Block(arrays).under("next.block")
    assert set(full) == {f"next.block.{name}" for name in arrays}
    others = {"next.blocks.c": np.zeros(1), "opt.a": np.zeros(1), "block.a": np.zeros(1)}
    assert exact(Block.named("next.block", others | full)) == exact(arrays)


@given(float_specs, st.data())
def test_a_block_from_a_vector_has_memory_of_its_own_that_nobody_changes(spec, data):
    vector = data.draw(hnp.arrays("float32", spec.elements, elements=values))
    block = spec.unflatten(vector)
    assert isinstance(block, Block) and vector.flags.writeable
    assert not any(array.flags.writeable for array in block.values())
    assert not any(np.shares_memory(array, vector) for array in block.values())
    np.testing.assert_array_equal(spec.flatten(block), vector)


@pytest.mark.parametrize(
    ("value", "finite", "sound"),
    [(1.0, True, True), (2e30, True, False), (np.inf, False, False), (np.nan, False, False)],
)
def test_sound_blocks_are_finite_and_not_too_large(value, finite, sound):
    block = Block({"n": np.zeros(2, np.int64), "a": np.float32([0, value])})
    assert (block.is_finite(), block.is_sound()) == (finite, sound)
