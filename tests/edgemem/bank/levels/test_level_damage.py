"""Levels that are damaged, forged or of another bundle: refused, or told row by row."""

import json
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_levels import STORAGES, make, shapes, tolerance
from places import begin_of

from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_header import LevelShape, encode_header
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.errors import BankError


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
