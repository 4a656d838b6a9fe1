"""Fetching: the sum along the path, damage that stays local, bounded memory."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import begin_of

from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.errors import BankError, InputError

BRANCH, LENGTH, ELEMENTS = 4, 3, 50


def make(folder, storage="float32", depth=3, branch=BRANCH):
    """Levels of random keys and blocks; their arrays, level 1 first."""
    random = np.random.default_rng(5)
    found = []
    for number in range(1, depth + 1):
        shape = LevelShape(number, branch, LENGTH, ELEMENTS, storage)
        keys = random.normal(size=(shape.rows, LENGTH)).astype(np.float32)
        blocks = random.normal(size=(shape.rows, ELEMENTS)).astype(np.float32)
        path = folder / f"level-{number}.safetensors"
        write_level(path, shape, keys, np.ones(shape.rows, np.int64), iter(blocks))
        found.append((path, keys, blocks))
    return found


def flip(path, array, index):
    """Flip a bit of an array of a level file."""
    place = begin_of(path)[array] + index
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x04]))


def key_of(seed=0):
    return np.random.default_rng(seed).normal(size=LENGTH).astype(np.float32)


@pytest.mark.parametrize("cache_bytes", [0, 500, 1 << 20])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_fetch_is_the_sum_of_the_rows_along_the_path(tmp_path, storage, cache_bytes):
    levels = make(tmp_path, storage)
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=cache_bytes) as bank:
        for seed in [*range(30), *range(30)]:
            found = bank.fetch(key_of(seed))
            assert found.faults == [] and len(found.path) == len(found.distances) == 3
            expected, row = np.zeros(ELEMENTS), 0
            for (_, keys, blocks), chosen in zip(levels, found.path, strict=True):
                children = np.arange(row * BRANCH, row * BRANCH + BRANCH)
                away = ((keys[children].astype(float) - key_of(seed)) ** 2).sum(axis=1)
                row = children[away.argmin()]
                assert row == chosen
                expected += blocks[row]
            tolerance = {"float32": 1e-6, "float16": 4e-3, "int8": 4e-2}[storage]
            np.testing.assert_allclose(found.values, expected, rtol=0, atol=tolerance)
            assert bank._cache.used <= cache_bytes


def test_what_a_fetch_returns_belongs_to_the_caller(tmp_path):
    make(tmp_path)
    with ShippedBank(tmp_path, ELEMENTS) as bank:
        first = bank.fetch(key_of())
        kept = first.values.copy()
        first.values[:] = 99
        np.testing.assert_array_equal(bank.fetch(key_of()).values, kept)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_damaged_row_counts_as_zero_and_is_reported_once(tmp_path, depth, cache_bytes):
    levels = make(tmp_path)
    with ShippedBank(tmp_path, ELEMENTS) as bank:
        whole = bank.fetch(key_of())
    row = whole.path[depth]
    flip(levels[depth][0], "blocks", 4 * (row * ELEMENTS + 7) + 3)
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=cache_bytes) as bank:
        found = bank.fetch(key_of())
        assert found.path == whole.path
        (fault,) = found.faults
        assert f"level-{depth + 1}.safetensors" in fault and f"row {row}" in fault
        expected = whole.values - levels[depth][2][row]
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-6)
        again = bank.fetch(key_of())
        assert again.faults == []
        np.testing.assert_array_equal(again.values, found.values)
        others = [bank.fetch(key_of(seed)) for seed in range(1, 20)]
        assert all(other.faults == [] for other in others)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_damaged_key_is_never_chosen_and_reported_once(tmp_path, depth):
    levels = make(tmp_path)
    with ShippedBank(tmp_path, ELEMENTS) as bank:
        whole = bank.fetch(key_of())
    row = whole.path[depth]
    flip(levels[depth][0], "keys", 4 * row * LENGTH)
    with ShippedBank(tmp_path, ELEMENTS) as bank:
        found = bank.fetch(key_of())
        assert found.path[:depth] == whole.path[:depth] and found.path[depth] != row
        assert len(found.faults) == 1 and f"key {row} " in found.faults[0]
        assert bank.fetch(key_of()).faults == []


def test_a_level_that_is_cut_off_while_open_falls_back_to_its_ancestors(tmp_path):
    levels = make(tmp_path)
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=0) as bank:
        os.truncate(levels[2][0], 100)
        found = bank.fetch(key_of())
        assert len(found.path) == 2 and len(found.faults) == 1
        expected = levels[0][2][found.path[0]] + levels[1][2][found.path[1]]
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-6)


@given(st.integers(0, 2), st.data())
def test_any_flipped_bit_leaves_a_bank_that_answers_or_one_clear_error(shared, depth, data):
    folder, contents = shared
    for path, content in contents.items():
        path.write_bytes(content)
    path = list(contents)[depth]
    content = bytearray(contents[path])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with ShippedBank(folder, ELEMENTS, cache_bytes=1000) as bank:
            for seed in range(8):
                found = bank.fetch(key_of(seed))
                assert np.isfinite(found.values).all()
                assert np.abs(found.values).max() < 20  # nothing wild got in
    except BankError as error:
        assert path.name in str(error)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    paths = [path for path, _, _ in make(folder, "int8")]
    return folder, {path: path.read_bytes() for path in paths}


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_closes_the_files(tmp_path):
    make(tmp_path)
    before = open_files()
    bank = ShippedBank(tmp_path, ELEMENTS)
    assert open_files() > before
    for seed in range(20):
        bank.fetch(key_of(seed))
    bank.close()
    bank.close()
    assert open_files() == before


def test_a_bank_of_keys_alone_gives_paths(tmp_path):
    shape = LevelShape(1, 3, 2, 0)
    keys = np.eye(3, 2, dtype=np.float32)
    zero = np.zeros(0, np.float32)
    write_level(tmp_path / "level-1.safetensors", shape, keys, np.ones(3, np.int64), [zero] * 3)
    with ShippedBank(tmp_path, 0) as bank:
        found = bank.fetch(np.array([0, 1], np.float32))
    assert found.path == (1,) and found.values.shape == (0,)


@pytest.mark.parametrize(
    "key", [np.zeros(2), np.zeros((1, 3)), np.array([0, np.nan, 0]), np.array([0, np.inf, 0])]
)
def test_a_key_that_does_not_fit_is_refused(tmp_path, key):
    make(tmp_path)
    with (
        ShippedBank(tmp_path, ELEMENTS) as bank,
        pytest.raises(InputError, match="Pass 3 finite numbers"),
    ):
        bank.fetch(key)


def test_levels_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(BankError, match=r"no level-1\.safetensors"):
        ShippedBank(tmp_path, ELEMENTS)
    with pytest.raises(BankError, match=r"no level-1\.safetensors"):
        ShippedBank(tmp_path / "none", ELEMENTS)
    levels = make(tmp_path)
    with pytest.raises(BankError, match="50 numbers in a block, not 49"):
        ShippedBank(tmp_path, 49)
    third = levels[2][0].read_bytes()
    levels[1][0].rename(tmp_path / "away")
    with pytest.raises(BankError, match=r"no level-2\.safetensors"):
        ShippedBank(tmp_path, ELEMENTS)
    levels[1][0].write_bytes(third)
    with pytest.raises(BankError, match="is level 3"):
        ShippedBank(tmp_path, ELEMENTS)
    (tmp_path / "b").mkdir()
    other = make(tmp_path / "b", branch=3)
    levels[1][0].write_bytes(other[1][0].read_bytes())
    with pytest.raises(BankError, match="branch 3"):
        ShippedBank(tmp_path, ELEMENTS)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_rows_of_the_path_are_asked_for_while_another_read_waits(
    tmp_path, monkeypatch, cache_bytes
):
    make(tmp_path)
    asked = []
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=cache_bytes) as bank:
        for number, level in enumerate(bank.levels):
            level._ready = 0  # every read counts as one that waits
            note = partial(lambda number, row: asked.append((number, row)), number)
            monkeypatch.setattr(level, "will_need", note)
        first, second = bank.fetch(key_of()), bank.fetch(key_of())
        _, middle, leaf = first.path
        assert asked[:2] == [(1, middle), (2, leaf)]
        assert len(set(asked)) == 2 and (cache_bytes == 0 or len(asked) == 3)
    np.testing.assert_array_equal(first.values, second.values)


def test_rows_that_the_cache_has_no_room_for_do_not_end_in_each_other(tmp_path):
    levels = make(tmp_path, depth=4)
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=0) as bank:
        path = bank.fetch(key_of()).path
    for damaged in [(), (0,), (1,), (0, 1), (1, 2), (0, 2, 3), (0, 1, 2, 3)]:
        folder = tmp_path / "-".join(map(str, ("damaged", *damaged)))
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("damaged*"))
        for depth in damaged:
            flip(folder / levels[depth][0].name, "blocks", 4 * path[depth] * ELEMENTS)
        good = [levels[depth][2][path[depth]] for depth in range(4) if depth not in damaged]
        expected = np.sum(good, axis=0) if good else np.zeros(ELEMENTS)
        with ShippedBank(folder, ELEMENTS, cache_bytes=0) as bank:
            found = [bank.sum_rows(path, []) for _ in range(2)]
        np.testing.assert_allclose(found, [expected] * 2, rtol=0, atol=1e-6)


def test_a_first_level_that_is_too_large_is_not_pinned_and_gives_the_same(tmp_path, monkeypatch):
    make(tmp_path)
    with ShippedBank(tmp_path, ELEMENTS, cache_bytes=0) as bank:
        expected = [bank.fetch(key_of(seed)) for seed in range(10)]
        assert len(bank._pinned) == BRANCH
    monkeypatch.setattr("edgemem.bank.read.shipped_bank.CACHE_BYTES", 4 * ELEMENTS * BRANCH - 1)
    for cache_bytes in (0, 300):
        with ShippedBank(tmp_path, ELEMENTS, cache_bytes=cache_bytes) as bank:
            assert not bank._pinned
            for seed, one in enumerate(expected):
                found = bank.fetch(key_of(seed))
                assert found.path == one.path and not found.faults
                np.testing.assert_array_equal(found.values, one.values)
            assert bank._cache.used <= cache_bytes
