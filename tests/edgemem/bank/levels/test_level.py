"""Level files: round trip, plain safetensors, and that no damage gets through unnoticed."""

import errno
import json
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_levels import STORAGES, arrays, make, shapes, tolerance
from safetensors.numpy import load_file, save_file

from edgemem.bank.levels.level import PAGES_BYTES, Level
from edgemem.bank.levels.level_header import LevelShape, encode_header
from edgemem.bank.levels.level_writer import write_level
from edgemem.errors import BankError, InputError


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
