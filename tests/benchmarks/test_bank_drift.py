"""The walk over the leaves, and that both banks give the blocks they should."""

import numpy as np
import pytest

from benchmarks.bank.drift import DRIFTS, Bank, walk
from edgemem.bank.levels.level_folder import open_levels
from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.bank.read.shipped_bank import ShippedBank

pytestmark = pytest.mark.slow

BRANCH, ELEMENTS, ROW = 3, 10, 40


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_walk_always_moves_and_as_far_as_it_was_told(drift):
    leaves = np.array(walk(DRIFTS[drift], 16, 4000, seed=1))
    assert len(leaves) == 4001 and leaves.min() >= 0 and leaves.max() < 4096
    before, after = leaves[:-1], leaves[1:]
    assert (before != after).all()
    siblings, cousins = before // 16 == after // 16, before // 256 == after // 256
    near, middle, far = DRIFTS[drift]
    # A draw among more leaves may hit a sibling too; one of the leaf itself is drawn again.
    assert siblings.mean() == pytest.approx(near + middle / 16 + far / 256, abs=0.03)
    assert cousins.mean() == pytest.approx(near + middle + far / 16, abs=0.03)


@pytest.mark.parametrize("cache_bytes", [0, 3 * ROW])
def test_only_rows_that_changed_are_read_and_the_sum_is_that_of_the_bank(tmp_path, cache_bytes):
    random = np.random.default_rng(0)
    for number in (1, 2, 3):
        shape = LevelShape(number, BRANCH, 2, ELEMENTS)
        keys = random.normal(size=(shape.rows, 2)).astype(np.float32)
        blocks = random.normal(size=(shape.rows, ELEMENTS)).astype(np.float32)
        count = np.ones(shape.rows, np.int64)
        write_level(tmp_path / f"level-{number}.safetensors", shape, keys, count, iter(blocks))
    bank = Bank(open_levels(tmp_path), BRANCH, cache_bytes)
    reads = []
    with ShippedBank(tmp_path, ELEMENTS) as shipped:
        for leaf in (0, 1, 5, 26, 26):  # any, sibling, cousin, any, the same
            before = bank.read
            expected = shipped.sum_rows((leaf // 9, leaf // 3, leaf), [])
            np.testing.assert_allclose(bank(leaf), expected, rtol=1e-6)
            reads.append((bank.read - before) // ROW)
    assert reads == [3, 1, 2, 3, 0]
    for level in bank.levels:
        level.close()
