"""Blocks of a bank that is built: means below every node, against a brute-force oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.bank.building import means
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.means import path_value
from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.errors import BankError, InputError


def saved(folder, keys, blocks, save=np.savez):
    save(folder / "source.npz", keys=keys, blocks=blocks)
    return folder / "source.npz"


def members(folder, keys, elements):
    """Numbers of the keys below each node, by (level, row), as a device descends."""
    found = {}
    with ShippedBank(folder, elements) as bank:
        for number, key in enumerate(keys):
            for level, row in enumerate(bank.descend(key, []).path):
                found.setdefault((level, row), []).append(number)
    return found


def rounding(storage, row):
    """The most that storing a row changes one of its numbers."""
    largest = float(np.abs(row).max(initial=0))
    return {"float32": 0.0, "float16": largest * 2**-11 + 2**-25, "int8": largest / 127 * 0.51}[
        storage
    ]


def check(folder, keys, blocks, storage):
    """Every node: the sum along its path is the mean below it, up to the rounding of its row."""
    elements, opened = blocks.shape[1], open_levels(folder)
    try:
        below = members(folder, keys, elements)
        for (level, row), numbers in below.items():
            mean = blocks[numbers].astype(np.float64).mean(axis=0)
            path = opened[: level + 1]
            above = path_value(path[:-1], row // path[0].shape.branch) if level else 0.0
            found = path_value(path, row)
            arithmetic = 4e-7 * (np.abs(mean).max() + np.abs(above).max())
            away = np.abs(found - mean).max()
            assert away <= rounding(storage, mean - above) + arithmetic, (level, row)
        for level, shape in enumerate(one.shape for one in opened):
            for row in range(shape.rows):
                if (level, row) not in below:
                    assert not opened[level].column("blocks", row, 1).any()
    finally:
        for level in opened:
            level.close()
    return below


@given(
    st.sampled_from(["float32", "float16", "int8"]),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_the_rows_of_a_path_add_up_to_the_mean_below(
    tmp_path_factory, storage, n, levels, branch, elements, seed
):
    folder, random = tmp_path_factory.mktemp("means"), np.random.default_rng(seed)
    keys = random.integers(-3, 4, (n, 2)).astype(np.float32)  # with equal ones among them
    scale = 10.0 ** random.integers(-3, 3, elements)
    blocks = (random.normal(size=(n, elements)) * scale).astype(np.float32)
    source = saved(folder, keys, blocks)
    build_bank(source, folder / "bank", levels=levels, branch=branch, storage=storage)
    below = check(folder / "bank", keys, blocks, storage)
    assert sum(len(found) for (level, _), found in below.items() if level == 0) == n
    assert list(verify_bank(folder / "bank")) == []


def test_rounding_errors_of_levels_do_not_add_up(tmp_path):
    random = np.random.default_rng(0)
    keys = random.normal(size=(300, 3)).astype(np.float32)
    blocks = random.normal(size=(300, 40)).astype(np.float32) + 100
    build_bank(saved(tmp_path, keys, blocks), tmp_path / "bank", branch=3, storage="int8")
    check(tmp_path / "bank", keys, blocks, "int8")
    with ShippedBank(tmp_path / "bank", 40) as bank:
        found = bank.fetch(keys[0])
    # Numbers around 100 in steps of 100/127: only the levels below make up for it.
    assert len(found.path) == 3 and np.abs(found.values - 100).max() < 4


def test_packed_sources_and_small_chunks_give_the_same_means(tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    keys = random.normal(size=(80, 3)).astype(np.float64)
    blocks = random.integers(-9, 10, (80, 7)).astype(np.float16)  # sums without rounding
    options = {"levels": 2, "branch": 3}
    build_bank(saved(tmp_path, keys, blocks), tmp_path / "one", **options)
    monkeypatch.setattr(means, "CHUNK_BYTES", 60)
    monkeypatch.setattr("edgemem.bank.building.keys.CHUNK_BYTES", 60)
    packed = saved(tmp_path, keys, blocks, np.savez_compressed)
    build_bank(packed, tmp_path / "two", **options)
    for name in ("level-1.safetensors", "level-2.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    check(tmp_path / "two", keys.astype(np.float32), blocks.astype(np.float32), "float32")


def test_progress_tells_of_blocks(tmp_path):
    seen = {}
    source = saved(tmp_path, np.eye(5, dtype=np.float32), np.ones((5, 2), np.float32))
    build_bank(
        source, tmp_path / "bank", levels=1, branch=3,
        progress=lambda stage, done, total: seen.update({stage: (done, total)}),
    )  # fmt: skip
    assert seen["check blocks"] == (5, 5) and seen["blocks of level 1 of 1"] == (5, 5)


@pytest.mark.parametrize(
    ("blocks", "options", "reason"),
    [
        (np.zeros((4, 2), np.float32), {}, "4 blocks: are not one for each of 5 keys"),
        (np.zeros((5, 2), np.float32), {"elements": 3}, "blocks of 2 numbers: are not of 3"),
        (np.zeros((5, 2, 1), np.float32), {}, "holds no readable blocks"),
        (np.zeros((5, 2), np.int64), {}, "holds no readable blocks"),
        (np.full((5, 2), np.nan, np.float32), {}, "block 0: is not finite"),
        (np.full((5, 2), 1e6, np.float32), {"storage": "float16"}, "float16 cannot"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, blocks, options, reason):
    source = saved(tmp_path, np.eye(5, dtype=np.float32), blocks)
    with pytest.raises(InputError, match=reason):
        build_bank(source, tmp_path / "bank", levels=1, branch=2, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["source.npz"]


def test_a_damaged_row_has_no_path_value(tmp_path):
    source = saved(tmp_path, np.eye(5, dtype=np.float32), np.ones((5, 2), np.float32))
    build_bank(source, tmp_path / "bank", levels=1, branch=2)
    path = tmp_path / "bank" / "level-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (level,) = open_levels(tmp_path / "bank")
    with level, pytest.raises(BankError, match="row 1: is damaged"):
        path_value([level], 1)
