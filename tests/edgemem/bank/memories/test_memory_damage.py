"""Damage costs a warning and the fetched block, never a crash; writing is whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_memories import TEXTS, generic_of, make_memories, rows_of, spec_of

from edgemem.bank.levels.level import Level
from edgemem.bank.memories.memory_bank import MemoryBank
from edgemem.bank.memories.memory_writing import build_tree, write_memories
from edgemem.bank.memories.text_key import text_key
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.text.memory_spec import LevelSpec
from edgemem.bundle.text.text_opening import open_memories
from edgemem.demo import BUNDLE
from edgemem.errors import BundleError, EdgeMemError, InputError


@pytest.fixture
def made(tmp_path):
    return make_memories(tmp_path / "bank", spec_of())


def fetch(made, text=TEXTS[0]):
    memories = made[0].memories
    bank = MemoryBank(memories.folder, memories.spec)
    try:
        return bank.fetch(text_key(text, memories.spec.key, memories.weights))
    finally:
        bank.close()


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def level_file(made, number):
    path = made[0].memories.folder / f"level-{number}.safetensors"
    with Level(path) as level:
        return path, level.begin, level.shape


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_row_gives_no_block_and_the_others_stay(made, number):
    intact = fetch(made)
    path, begin, shape = level_file(made, number)
    flip(path, begin["blocks"] + intact.path[number - 1] * shape.row_bytes + 5)
    found = fetch(made)
    assert found.block is None and "check sum" in found.fault
    open_memories(made[0].path)  # rows are looked at when they are used
    others = [fetch(made, text) for text in TEXTS]
    assert any(other.block is not None for other in others)


def test_a_damaged_key_gives_no_block_instead_of_a_wrong_one(made):
    intact = fetch(made)
    path, begin, shape = level_file(made, 1)
    flip(path, begin["keys"] + intact.path[0] * 4 * shape.key_length + 3)
    found = fetch(made)
    assert found.block is None and "keys below row 0" in found.fault


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_level_is_refused_at_opening(made, share):
    path, _, _ = level_file(made, 2)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(BundleError, match=r"level-2\.safetensors"):
        open_memories(made[0].path)


def test_a_level_that_ends_early_later_on_gives_no_block(made):
    memories = made[0].memories
    bank = MemoryBank(memories.folder, memories.spec)
    path, begin, _ = level_file(made, 2)
    os.truncate(path, begin["blocks"] + 1)
    found = bank.fetch(text_key(TEXTS[0], memories.spec.key, memories.weights))
    assert found.block is None and "ends early" in found.fault
    bank.close()


@pytest.mark.parametrize("name", ["bank/generic.safetensors", "bank/key.safetensors"])
def test_other_files_are_hashed_at_opening(made, name):
    flip(made[0].path / name, -1)
    with pytest.raises(BundleError, match="hash"):
        open_memories(made[0].path)


def test_every_flipped_bit_of_the_manifest_is_noticed(made):
    path = made[0].path / "manifest.json"
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 60, replace=False).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            open_memories(made[0].path)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_memories import make_memories, spec_of
from edgemem.bundle.text.memory_spec import LevelSpec
print("ready", flush=True)
for seed in range(1000):
    make_memories(Path(sys.argv[2]), spec_of(levels=(LevelSpec(40), LevelSpec(30))), seed=seed)
    print(seed, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_bank(tmp_path):
    helpers = Path(sys.modules["made_memories"].__file__).parent
    out = tmp_path / "bank"
    for lines in (2, 3, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, helpers, out], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = open_memories(out)
        bank = MemoryBank(found.memories.folder, found.memories.spec)
        assert bank.at((0, 0)).block is not None
        bank.close()


def test_what_cannot_be_stored_leaves_the_old_bank(made):
    before = {p.name: p.read_bytes() for p in made[0].path.rglob("*") if p.is_file()}
    spec, tree, rows = made[0].memories.spec, made[1], made[2]
    weights, generic = made[0].memories.weights, made[0].memories.generic
    rows[1][0, 0] = np.inf
    with pytest.raises(InputError, match="holds numbers that"):
        write_memories(made[0].path, spec, tree, rows, generic, weights)
    unsound = Block({name: array * np.float32(np.nan) for name, array in generic.items()})
    rows = rows_of(spec, tree)
    with pytest.raises(InputError, match="generic block"):
        write_memories(made[0].path, spec, tree, rows, unsound, weights)
    with pytest.raises(InputError, match="another number of levels"):
        write_memories(made[0].path, spec, tree, rows[:1], generic, weights)
    with pytest.raises(InputError, match="is missing"):
        write_memories(made[0].path, spec, tree, rows, Block({}), weights)
    after = {p.name: p.read_bytes() for p in made[0].path.rglob("*") if p.is_file()}
    assert after == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists, and is no folder of kind memories"):
        make_memories(tmp_path / "taken", spec_of())
    assert (tmp_path / "taken" / "letter.txt").read_text() == "dear"
    bundle = shutil.copytree(BUNDLE, tmp_path / "digits.edgemem")
    with pytest.raises(InputError, match="exists, and is no folder of kind memories"):
        make_memories(bundle, spec_of())
    open_bundle(bundle)


@pytest.mark.parametrize(
    "levels, reason",
    [
        ((LevelSpec(2, "sum"),), "no level above"),
        ((LevelSpec(2), LevelSpec(3, "sum")), "another rank"),
    ],
)
def test_levels_that_do_not_go_together_are_refused(tmp_path, levels, reason):
    spec = spec_of(levels=levels)
    keys = np.eye(8, 64, dtype=np.float32)
    tree = build_tree(keys, levels=len(levels), branch=2)
    rows, weights = rows_of(spec, tree), np.ones(64, np.float32)
    with pytest.raises(EdgeMemError, match=reason):
        write_memories(tmp_path / "bank", spec, tree, rows, generic_of(spec_of()), weights)
