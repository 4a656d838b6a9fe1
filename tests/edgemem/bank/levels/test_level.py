"""Level files: round trip, plain safetensors, and that no damage gets through unnoticed."""

import errno
import json
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import begin_of
from safetensors.numpy import load_file, save_file

from edgemem.bank.levels.level import PAGES_BYTES, Level
from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_header import LevelShape, encode_header
from edgemem.bank.levels.level_writer import write_level
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.errors import BankError, InputError

STORAGES = ("float32", "float16", "int8")


def arrays(shape, seed=0, absent=()):
    """Keys, counts and blocks of a level."""
    random = np.random.default_rng(seed)
    keys = random.normal(size=(shape.rows, shape.key_length)).astype(np.float32)
    count = random.integers(1, 100, shape.rows)
    blocks = random.normal(size=(shape.rows, shape.elements)).astype(np.float32)
    for row in absent:
        keys[row], count[row], blocks[row] = np.inf, 0, 0
    return keys, count, blocks


def make(folder, shape, seed=0, absent=()):
    """Write a level under its usual name; its path and arrays."""
    keys, count, blocks = arrays(shape, seed, absent)
    path = folder / f"level-{shape.number}.safetensors"
    write_level(path, shape, keys, count, iter(blocks))
    return path, keys, count, blocks


shapes = st.builds(
    LevelShape,
    number=st.integers(1, 3),
    branch=st.integers(2, 5),
    key_length=st.integers(1, 7),
    elements=st.integers(0, 9),
    storage=st.sampled_from(STORAGES),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("levels")


@given(shapes, st.integers(0, 99))
def test_what_is_written_is_read(folder, shape, seed):
    path, keys, count, blocks = make(folder, shape, seed, absent=(shape.rows - 1,))
    out = np.empty(shape.elements, np.float32)
    with Level(path, elements=shape.elements, key_length=shape.key_length) as level:
        assert level.shape == shape and level.index_is_whole()
        np.testing.assert_array_equal(level.column("count"), count)
        for parent in range(shape.rows // shape.branch):
            children = slice(parent * shape.branch, (parent + 1) * shape.branch)
            np.testing.assert_array_equal(level.children_keys(parent), keys[children])
        for row, block in enumerate(blocks):
            level.read_row(row, out)
            np.testing.assert_allclose(out, block, rtol=0, atol=tolerance(shape.storage, block))


def tolerance(storage, block):
    largest = float(np.abs(block).max(initial=0))
    return {"float32": 0, "float16": largest * 2**-11, "int8": 1.0001 * largest / 254}[storage]


@given(shapes)
def test_plain_safetensors_reads_it_and_finds_what_the_format_promises(folder, shape):
    path, keys, count, blocks = make(folder, shape)
    found = load_file(path)
    names = {"keys", "parent", "count", "blocks", "key_crc", "crc"}
    assert set(found) == names | ({"scale"} if shape.storage == "int8" else set())
    np.testing.assert_array_equal(found["keys"], keys)
    np.testing.assert_array_equal(found["count"], count)
    rows = np.arange(shape.rows)
    np.testing.assert_array_equal(found["parent"], rows // shape.branch)
    scale = found.get("scale", np.ones(shape.rows, np.float32))
    for row in rows:
        value = found["blocks"][row].astype(np.float32) * scale[row]
        allowed = tolerance(shape.storage, blocks[row])
        np.testing.assert_allclose(value, blocks[row], rtol=0, atol=allowed)
        stored = found["blocks"][row].tobytes()
        stored += scale[row].tobytes() if shape.storage == "int8" else b""
        assert zlib.crc32(stored) == found["crc"][row]
        assert zlib.crc32(found["keys"][row].tobytes()) == found["key_crc"][row]


def test_arrays_may_lie_in_any_order(tmp_path):
    shape = LevelShape(1, 4, 3, 5, "int8")
    path, keys, _, _ = make(tmp_path, shape)
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    before, out, again = load_file(path), np.empty(5, np.float32), np.empty(5, np.float32)
    with Level(path) as level:
        level.read_row(2, out)
    save_file(before, path, metadata)  # sorts them its own way
    assert path.read_bytes() != header
    with Level(path) as level:
        level.read_row(2, again)
        np.testing.assert_array_equal(level.children_keys(0), keys)
        assert level.index_is_whole()
    np.testing.assert_array_equal(again, out)


@given(shapes, st.data())
def test_a_shorter_or_longer_file_is_refused(folder, shape, data):
    path, *_ = make(folder, shape)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(BankError):
        Level(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(BankError):
        Level(path)


@given(st.sampled_from(STORAGES), st.data())
def test_a_flipped_bit_is_an_error_or_a_fault_and_never_another_exception(folder, storage, data):
    path, *_ = make(folder, LevelShape(1, 3, 2, 4, storage), absent=(1,))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        assert list(verify_bank(folder_of_one(path))), f"byte {place} passed unnoticed"
        with ShippedBank(folder_of_one(path), 4) as bank:
            found = bank.fetch(np.zeros(2, np.float32))
            assert np.isfinite(found.values).all() and found.values.shape == (4,)
    except BankError as error:
        assert path.name in str(error)


def folder_of_one(path):
    """A folder that holds this level alone."""
    alone = path.parent / "alone"
    alone.mkdir(exist_ok=True)
    (alone / path.name).unlink(missing_ok=True)
    os.link(path, alone / path.name)
    return alone


@pytest.mark.parametrize("place", ["block", "scale", "crc"])
def test_a_damaged_row_is_refused_and_its_neighbours_are_read(tmp_path, place):
    path, _, _, blocks = make(tmp_path, LevelShape(1, 4, 2, 6, "int8"))
    begin = begin_of(path)
    offset = {
        "block": begin["blocks"] + 2 * 6 + 3,
        "scale": begin["scale"] + 2 * 4 + 3,
        "crc": begin["crc"] + 2 * 4,
    }[place]
    flip(path, offset)
    out = np.empty(6, np.float32)
    with Level(path) as level:
        with pytest.raises(BankError, match=r"row 2.*damaged"):
            level.read_row(2, out)
        level.read_row(3, out)
        np.testing.assert_allclose(out, blocks[3], atol=tolerance("int8", blocks[3]))


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_a_damaged_key_is_not_a_number_and_its_neighbours_are_read(tmp_path):
    path, keys, _, _ = make(tmp_path, LevelShape(2, 3, 4, 0))
    flip(path, begin_of(path)["keys"] + 4 * 4 * 4 + 2)
    with Level(path) as level:
        found = level.children_keys(1)
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[[0, 2]], keys[[3, 5]])
        assert np.isnan(level.children_keys(1)[1]).all()  # at every touch


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path):
    path, *_ = make(tmp_path, LevelShape(1, 4, 2, 6))
    with Level(path) as level:
        os.truncate(path, path.stat().st_size - 3)
        with pytest.raises(BankError, match="ends early"):
            level.read_row(3, np.empty(6, np.float32))


def test_a_row_is_checked_once_while_its_page_is_known(tmp_path, monkeypatch):
    path, *_ = make(tmp_path, LevelShape(1, 4, 2, 6))
    calls = []
    monkeypatch.setattr(
        "edgemem.bank.levels.level.row_crc", lambda row, scale: calls.append(1) or 0
    )
    with Level(path) as level:
        page = level._page(0)
        page.crc[:] = 0
        for row in (1, 1, 2, 1):
            level.read_row(row, np.empty(6, np.float32))
    assert len(calls) == 2


def test_pages_are_bounded(tmp_path):
    shape = LevelShape(1, 200_000, 1, 0)
    path, keys, _, _ = make(tmp_path, shape)
    with Level(path) as level:
        np.testing.assert_array_equal(level.children_keys(0), keys)
        assert level._pages.used <= PAGES_BYTES


HEADERS = {
    "no metadata": lambda h: h.pop("__metadata__"),
    "another format": lambda h: h["__metadata__"].update(format="edgemem-level-2"),
    "a huge level": lambda h: h["__metadata__"].update(level="999999999"),
    "a level below 1": lambda h: h["__metadata__"].update(level="0"),
    "another branch": lambda h: h["__metadata__"].update(branch="2"),
    "a branch of text": lambda h: h["__metadata__"].update(branch="many"),
    "metadata of numbers": lambda h: h["__metadata__"].update(level=None),
    "a missing array": lambda h: h.pop("crc"),
    "an unknown array": lambda h: h.update(extra=h["crc"]),
    "huge blocks": lambda h: h["blocks"].update(shape=[3, 1 << 60]),
    "negative blocks": lambda h: h["blocks"].update(shape=[3, -4]),
    "fractional blocks": lambda h: h["blocks"].update(shape=[3, 4.0]),
    "blocks of three dimensions": lambda h: h["blocks"].update(shape=[3, 4, 1]),
    "keys without numbers": lambda h: h["keys"].update(shape=[3, 0]),
    "another dtype": lambda h: h["count"].update(dtype="F64"),
    "an overlap": lambda h: h["crc"].update(data_offsets=h["key_crc"]["data_offsets"]),
    "offsets of text": lambda h: h["crc"].update(data_offsets="0:12"),
    "a list": lambda h: h.update(keys=[]),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_that_does_not_add_up_is_refused(tmp_path, change):
    path, *_ = make(tmp_path, LevelShape(1, 3, 2, 4))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(BankError):
        Level(path)


@pytest.mark.parametrize("text", [b"[" * 60_000, b"{}", b"[1]", b"\xff" * 20, b'{"a": NaN}'])
def test_a_header_of_nonsense_is_refused(tmp_path, text):
    path = tmp_path / "level-1.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
    with pytest.raises(BankError):
        Level(path)


def test_a_file_of_another_bundle_is_refused(tmp_path):
    path, *_ = make(tmp_path, LevelShape(1, 3, 2, 4))
    with pytest.raises(BankError, match="4 numbers in a block, not 5"):
        Level(path, elements=5)
    with pytest.raises(BankError, match="2 numbers in a key, not 3"):
        Level(path, key_length=3)
    with pytest.raises(BankError, match="does not exist"):
        Level(tmp_path / "none")
    with pytest.raises(BankError, match="is a folder"):
        Level(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "level-1.safetensors"
    os.mkfifo(path)
    with pytest.raises(BankError, match="is a pipe"):
        Level(path)


BAD_ARRAYS = {
    "too few rows": lambda k, c, b: (k, c, b[:-1]),
    "too many rows": lambda k, c, b: (k, c, [*b, b[0]]),
    "rows of another length": lambda k, c, b: (k, c, b[:, 1:]),
    "rows of another dtype": lambda k, c, b: (k, c, b.astype(float)),
    "keys of another shape": lambda k, c, b: (k[:, 1:], c, b),
    "counts of another dtype": lambda k, c, b: (k, c.astype(float), b),
    "an absent child with a key": lambda k, c, b: (k, c * 0, b),
    "a present child without one": lambda k, c, b: (k + np.inf, c, b),
    "infinite blocks": lambda k, c, b: (k, c, b + np.float32(np.inf)),
    "blocks that are not numbers": lambda k, c, b: (k, c, b * np.float32(np.nan)),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("change", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_the_writer_refuses_what_does_not_fit_and_keeps_the_old_file(tmp_path, change, storage):
    shape = LevelShape(1, 3, 2, 4, storage)
    path, *_ = make(tmp_path, shape)
    before = path.read_bytes()
    keys, count, blocks = change(*arrays(shape, seed=1))
    with pytest.raises(InputError):
        write_level(path, shape, keys, count, iter(blocks))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    shape = LevelShape(1, 2, 1, 1, "float16")
    keys, count, blocks = arrays(shape)
    with pytest.raises(InputError, match="float16 cannot"):
        write_level(tmp_path / "l", shape, keys, count, iter(blocks + np.float32(7e4)))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 9e36])
def test_int8_holds_the_smallest_and_the_largest_numbers(tmp_path, value):
    shape = LevelShape(1, 2, 1, 2, "int8")
    keys, count, _ = arrays(shape)
    row = np.array([value, -value], np.float32)
    write_level(tmp_path / "l", shape, keys, count, iter([row, row]))
    out = np.empty(2, np.float32)
    with Level(tmp_path / "l") as level:
        level.read_row(0, out)
    np.testing.assert_allclose(out, row, rtol=0.01, atol=1e-42)


def test_an_unknown_storage_or_folder_is_refused(tmp_path):
    keys, count, blocks = arrays(LevelShape(1, 2, 1, 1))
    with pytest.raises(InputError, match="storage"):
        write_level(tmp_path / "l", LevelShape(1, 2, 1, 1, "int4"), keys, count, iter(blocks))
    with pytest.raises(InputError, match="cannot be written"):
        write_level(tmp_path / "no" / "l", LevelShape(1, 2, 1, 1), keys, count, iter(blocks))


READ = os.preadv


def some_ready(handle, buffers, offset, flags=0):
    """As where half of what is asked for is in memory."""
    half = memoryview(buffers[0]).cast("B")[: memoryview(buffers[0]).nbytes // 2]
    return READ(handle, (half,), offset) if flags else READ(handle, buffers, offset)


def none_ready(handle, buffers, offset, flags=0):
    if flags:
        raise BlockingIOError
    return READ(handle, buffers, offset)


def cannot_tell(handle, buffers, offset, flags=0):
    if flags:
        raise OSError(errno.EOPNOTSUPP, "not supported")
    return READ(handle, buffers, offset)


@pytest.mark.parametrize("read", [some_ready, none_ready, cannot_tell])
def test_what_is_not_in_memory_is_waited_for_and_the_caller_hears_of_it(
    tmp_path, monkeypatch, read
):
    path, keys, _, blocks = make(tmp_path, LevelShape(2, 3, 4, 6))
    waits, out = [], np.empty(6, np.float32)
    monkeypatch.setattr("edgemem.bank.levels.level.READY", 8)
    with Level(path) as level:
        level._page(0)
        monkeypatch.setattr(os, "preadv", read)
        level.read_stored(3, out, lambda: waits.append("row"))
        found = level.children_keys(1, lambda: waits.append("keys"))
    np.testing.assert_array_equal(out, blocks[3])
    np.testing.assert_array_equal(found, keys[3:6])
    assert waits == ["row", "keys"]


def test_nobody_waits_for_what_is_in_memory(tmp_path):
    path, *_ = make(tmp_path, LevelShape(1, 3, 4, 6))
    with Level(path) as level:
        if not level._ready:
            pytest.skip("this system cannot tell")
        level.read_stored(1, np.empty(6, np.float32), pytest.fail)
        level.children_keys(0, pytest.fail)


def test_numbers_that_could_not_be_added_are_refused_when_written(tmp_path):
    for storage in ("float32", "int8"):
        shape = LevelShape(1, 2, 1, 2, storage)
        keys, count = np.zeros((2, 1), np.float32), np.ones(2, np.int64)
        rows = np.full((2, 2), 1.1e37, np.float32)
        with pytest.raises(InputError, match="too large to be added"):
            write_level(tmp_path / "l", shape, keys, count, rows)


def test_keys_below_one_node_are_bounded_when_written_and_when_read(tmp_path):
    shape = LevelShape(1, 1 << 22, 5, 0)
    with pytest.raises(InputError, match="83,886,080 bytes of keys below one node"):
        write_level(tmp_path / "l", shape, np.zeros((0, 5), np.float32), np.zeros(0, int), [])
    path = tmp_path / "level-1.safetensors"
    header = encode_header(shape)
    path.write_bytes(header)
    os.truncate(path, len(header) + shape.index_bytes)  # sparse: no bytes but the header's
    with pytest.raises(BankError, match=r"bytes of keys below one node.*smaller branch"):
        Level(path)


def forged(path, shape, keys, blocks, scale=1.0):
    """A level with these numbers and check sums that are right."""
    rows = len(keys)
    index = {
        "parent": np.zeros(rows, "<i8"),
        "count": np.isfinite(keys[:, 0]).astype("<i8"),
        "keys": keys.astype("<f4"),
        "scale": np.full(rows, scale, "<f4"),
        "key_crc": np.array([zlib.crc32(key) for key in keys.astype("<f4")], "<u4"),
        "crc": np.array([0] * rows, "<u4"),
    }
    if shape.storage == "int8":
        parts = zip(blocks, index["scale"], strict=True)
        index["crc"][:] = [zlib.crc32(s.tobytes(), zlib.crc32(b.tobytes())) for b, s in parts]
    else:
        index["crc"][:] = [zlib.crc32(block.tobytes()) for block in blocks]
        del index["scale"]
    content, crc = b"".join(part.tobytes() for part in index.values()), 0
    crc = zlib.crc32(content)
    path.write_bytes(encode_header(shape, crc) + content + blocks.tobytes())


@pytest.mark.parametrize(
    ("storage", "value", "scale"),
    [
        ("float32", np.nan, 1.0),
        ("float32", -np.inf, 1.0),
        ("float32", 3e38, 1.0),
        ("float16", np.inf, 1.0),
        ("float16", np.nan, 1.0),
        ("int8", 5, np.nan),
        ("int8", 5, np.inf),
        ("int8", 127, 3e38),
        ("int8", -127, -3e38),
    ],
)
def test_impossible_values_with_right_check_sums_are_told_and_count_as_zero(
    tmp_path, storage, value, scale
):
    shape = LevelShape(1, 2, 1, 3, storage)
    blocks = np.ones((2, 3), shape.dtype)
    blocks[0, 1] = value
    path = tmp_path / "level-1.safetensors"
    forged(path, shape, np.array([[1.0], [9.0]]), blocks, scale)
    assert any("row 0: holds impossible values" in fault for fault in verify_bank(tmp_path))
    with ShippedBank(tmp_path, 3, cache_bytes=0) as bank:
        found = bank.fetch(np.array([1.0]))
    assert found.path == (0,) and not found.values.any()
    assert ["impossible" in fault for fault in found.faults] == [True]


@pytest.mark.parametrize("key", [[np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_an_impossible_key_with_a_right_check_sum_is_told_and_never_chosen(tmp_path, key):
    shape = LevelShape(1, 2, 2, 1)
    forged(
        tmp_path / "level-1.safetensors", shape, np.array([key, [9.0, 9.0]]), np.ones((2, 1), "<f4")
    )
    assert any("key 0" in fault for fault in verify_bank(tmp_path))
    with ShippedBank(tmp_path, 1) as bank:
        found = bank.fetch(np.array([1.0, 1.0]))
    assert found.path == (1,) and any("key 0 is damaged" in fault for fault in found.faults)
