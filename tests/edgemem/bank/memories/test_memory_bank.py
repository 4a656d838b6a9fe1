"""A bank of memories gives back what was written, from the rows of one path alone."""

import tracemalloc

import numpy as np
import pytest
from commands import run_command
from hypothesis import given
from hypothesis import strategies as st
from made_memories import TEXTS, make_memories, spec_of

from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.memories.memory_bank import MemoryBank
from edgemem.bank.memories.text_key import text_key
from edgemem.bundle.text.memory_spec import KeySpec, LevelSpec
from edgemem.bundle.text.text_opening import open_memories
from edgemem.errors import BankError, InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bank, its tree and its rows (do not write there)."""
    return make_memories(tmp_path_factory.mktemp("memories") / "bank", spec_of())


def opened(made, deny=()):
    return MemoryBank(made[0].memories.folder, made[0].manifest.memories, deny)


def key_of(made, text):
    return text_key(text, made[0].memories.spec.key, made[0].memories.weights)


def arrays_of(spec, tree, rows, path):
    """The block of a path, put together by hand."""
    found = {}
    for level in range(len(spec.levels)):
        part = rows[level][path[level]] if level < len(path) else np.zeros_like(rows[level][0])
        first = 0
        for array in spec.arrays(level).arrays:
            size = int(np.prod(array.shape))
            found[f"{level + 1}.{array.name}"] = part[first : first + size].reshape(array.shape)
            first += size
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_finds_the_rows_along_its_path(made, text):
    folder, tree, rows = made
    bank = opened(made)
    found = bank.fetch(key_of(made, text))
    assert found.path == tree.path(key_of(made, text)) and len(found.path) == 2
    expected = arrays_of(folder.manifest.memories, tree, rows, found.path)
    assert found.block.has_values_of(expected) and not found.fault and not found.denied
    assert bank.at(found.path).block.has_values_of(expected)
    bank.close()
    bank.close()


def test_texts_of_one_subject_share_their_first_row(made):
    paths = [opened(made).fetch(key_of(made, text)).path for text in TEXTS]
    assert paths[0][0] == paths[1][0] and len(set(paths)) > 2


def test_a_summed_level_is_added_to_the_one_above(tmp_path):
    levels = LevelSpec(2), LevelSpec(2, "sum"), LevelSpec(1)
    spec = spec_of(levels=levels)
    made = make_memories(tmp_path / "bank", spec)
    rows = made[2]
    found = opened(made).fetch(key_of(made, TEXTS[0]))
    first, second, third = found.path
    m1 = (rows[0][first] + rows[1][second])[: 2 * 3 * 2].reshape(2, 3, 2)
    np.testing.assert_array_equal(found.block["1.m1"], m1)
    m3 = rows[2][third][-2 * 1 * 3 :].reshape(2, 1, 3)
    np.testing.assert_array_equal(found.block["3.m3"], m3)
    assert sorted(found.block) == ["1.m1", "1.m2", "1.m3", "3.m1", "3.m2", "3.m3"]


def test_a_denied_node_and_what_lies_below_are_zero(made):
    folder, tree, rows = made
    key = key_of(made, TEXTS[0])
    path = tree.path(key)
    whole = opened(made, [path[:1]]).fetch(key)
    assert whole.path == () and whole.denied and not whole.fault
    assert not any(array.any() for array in whole.block.values())
    leaf = opened(made, [path]).fetch(key)
    expected = arrays_of(folder.manifest.memories, tree, rows, path[:1])
    assert leaf.path == path[:1] and leaf.denied and leaf.block.has_values_of(expected)
    with pytest.raises(InputError, match="is denied"):
        opened(made, [path[:1]]).at(path)
    other = opened(made, [(1 - path[0],)]).fetch(key)
    assert other.path == path and not other.denied


@pytest.mark.parametrize("path", [(), (2,), (0, 2), (1, 0), (0, 0, 0), (-1,)])
def test_a_path_that_this_tree_does_not_have_is_refused(made, path):
    with pytest.raises(InputError, match="is no path"):
        opened(made).at(path)
    with pytest.raises(InputError, match="is no path"):
        opened(made, [path])


def test_an_absent_node_is_refused(tmp_path):
    made = make_memories(tmp_path / "bank", spec_of(), texts=TEXTS[:3], branch=3)
    counts = made[1].counts[1]
    row = int(np.flatnonzero(counts == 0)[0])
    with pytest.raises(InputError, match="is absent"):
        opened(made).at((row // 3, row))


def test_a_level_of_other_blocks_is_refused(made):
    other = spec_of(levels=(LevelSpec(2), LevelSpec(2)))
    with pytest.raises(BankError, match="numbers in a block"):
        MemoryBank(made[0].memories.folder, other)
    with pytest.raises(BankError, match="has 2 levels, not 1"):
        MemoryBank(made[0].memories.folder, spec_of(levels=(LevelSpec(2),)))


def test_a_bank_passes_the_check_of_banks(made):
    assert list(verify_bank(made[0].memories.folder)) == []


@given(
    ranks=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    width=st.integers(1, 5),
    count=st.integers(1, 3),
    gated=st.booleans(),
    storage=st.sampled_from(["float32", "float16", "int8"]),
    branch=st.integers(2, 3),
    seed=st.integers(0, 99),
)
def test_whatever_the_blocks_are_they_come_back(
    tmp_path_factory, ranks, width, count, gated, storage, branch, seed
):
    spec = spec_of(
        levels=tuple(LevelSpec(rank) for rank in ranks),
        width=width,
        gated=gated,
        layers=tuple(f"layer.{n}" for n in range(count)),
        key=KeySpec("hashed_tfidf", 16),
    )
    out = tmp_path_factory.mktemp("bank") / "bank"
    made = make_memories(out, spec, branch=branch, seed=seed, storage=storage)
    assert open_memories(out).manifest == made[0].manifest
    bank = opened(made)
    found = bank.fetch(key_of(made, TEXTS[seed % len(TEXTS)]))
    bank.close()
    expected = arrays_of(spec, made[1], made[2], found.path)
    for name, array in found.block.items():
        row = made[2][int(name[0]) - 1][found.path[int(name[0]) - 1]]
        off = {"float32": 0, "float16": 2**-11, "int8": 1.001 / 254}[storage]
        assert np.abs(array - expected[name]).max() <= off * np.abs(row).max() + 1e-7
        assert array.dtype == np.float32


def test_what_is_held_is_what_was_fetched(tmp_path):
    """256 leaves of 144 KB: all that is allocated are a few of them."""
    spec = spec_of(levels=(LevelSpec(1), LevelSpec(2000)), key=KeySpec("hashed_tfidf", 64))
    texts = [f"{text} {n}" for n in range(64) for text in TEXTS]
    made = make_memories(tmp_path / "bank", spec, texts=texts, branch=16)
    leaf = 4 * spec.elements[1]
    size = sum(path.stat().st_size for path in made[0].memories.folder.iterdir())
    tracemalloc.start()
    try:
        bank = opened(made)
        for text in texts[:64]:
            bank.fetch(key_of(made, text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bank.close()
    assert size > 200 * leaf and peak < 5 * leaf


def test_the_command_for_banks_checks_and_lists_it(made):
    found = run_command("bank", "verify", made[0].path)
    assert found.returncode == 0, found.stderr
    listed = run_command("bank", "ls", made[0].path)
    assert listed.returncode == 0 and "float32" in listed.stdout
