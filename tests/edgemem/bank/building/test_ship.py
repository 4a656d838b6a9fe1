"""Levels that become part of a bundle: what the copy holds, and what is refused."""

import json
import shutil

import numpy as np
import pytest

import edgemem
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.bundle.opening import check_levels, open_bundle
from edgemem.demo import BUNDLE


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_copy_is_the_bundle_with_the_levels(bundle, demo_levels, tmp_path):
    before, levels = contents(bundle), contents(demo_levels)
    made = ship(demo_levels, bundle, tmp_path / "new.edgemem")
    found = contents(tmp_path / "new.edgemem")
    assert found.keys() == before.keys() | {f"bank/{name}" for name in levels}
    for name, content in found.items():
        if name != "manifest.json":
            expected = levels[name[5:]] if "level-" in name else before[name]
            assert content == expected, name
    assert made.identity == open_bundle(tmp_path / "new.edgemem").identity
    assert made.identity != open_bundle(bundle).identity and contents(bundle) == before
    old, new = (json.loads(c["manifest.json"]) for c in (before, found))
    apart = {name: old[name] for name in ("sha256", "files", "written_by")}
    assert {**new, **apart} == old
    check_levels(made)
    assert {path.name for path in tmp_path.iterdir()} == {bundle.name, "new.edgemem"}


def test_levels_that_were_there_make_place(shipped_bundle, tmp_path):
    np.save(tmp_path / "keys.npy", np.eye(9, 48, dtype=np.float32))
    build_bank(tmp_path / "keys.npy", tmp_path / "b", levels=1, branch=3, elements=42_972)
    made = ship(tmp_path / "b", shipped_bundle, tmp_path / "again.edgemem")
    assert made.manifest.levels == ["bank/level-1.safetensors"]
    assert (
        contents(tmp_path / "b").items()
        <= {
            name.removeprefix("bank/"): content
            for name, content in contents(tmp_path / "again.edgemem").items()
        }.items()
    )


def test_the_same_levels_give_the_same_bundle(demo_levels, shipped_bundle, tmp_path):
    made = ship(demo_levels, BUNDLE, tmp_path / "same.edgemem")
    assert made.identity == open_bundle(shipped_bundle).identity
    assert ship(shipped_bundle / "bank", BUNDLE, tmp_path / "same.edgemem").identity == (
        made.identity
    )


def test_state_files_of_the_old_bundle_do_not_go_on(bundle, shipped_bundle, tmp_path):
    frames = np.zeros((16, 1, 8, 8), np.uint8)
    with edgemem.open(bundle, tmp_path / "s.db", threads=1) as runtime:
        runtime.step(frames)
    with pytest.raises(edgemem.StateError, match="another bundle"):
        edgemem.open(shipped_bundle, tmp_path / "s.db", threads=1)


def refused(kind, match, bank, bundle, out):
    before = contents(out) if out.is_dir() else None
    with pytest.raises(kind, match=match) as caught:
        ship(bank, bundle, out)
    assert caught.value.reason and caught.value.remedy
    assert (contents(out) if out.is_dir() else None) == before
    assert not [path for path in out.parent.glob(".*") if path.is_dir()]


@pytest.mark.parametrize(
    ("length", "elements", "reason"),
    [(47, 42_972, "has 47 numbers in a key, not 48"), (48, 0, "has 0 numbers in a block")],
)
def test_levels_that_do_not_fit_are_refused(bundle, tmp_path, length, elements, reason):
    np.save(tmp_path / "keys.npy", np.eye(4, length, dtype=np.float32))
    build_bank(tmp_path / "keys.npy", tmp_path / "b", levels=1, branch=2, elements=elements)
    refused(edgemem.BankError, reason, tmp_path / "b", bundle, tmp_path / "new")


def test_damaged_levels_are_refused(bundle, demo_levels, tmp_path):
    bank = shutil.copytree(demo_levels, tmp_path / "b")
    content = bytearray((bank / "level-2.safetensors").read_bytes())
    content[-1] ^= 1
    (bank / "level-2.safetensors").write_bytes(content)
    refused(edgemem.BankError, r"is damaged.*row 3", bank, bundle, tmp_path / "new")
    (bank / "level-1.safetensors").unlink()
    refused(edgemem.BankError, "has no level-1", bank, bundle, tmp_path / "new")
    refused(edgemem.BankError, "has no level-1", tmp_path / "none", bundle, tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: (m.update(source=None), m["files"].pop("source.safetensors")), "source keys"),
        (lambda m: m.update(format="zip"), "not the manifest"),
    ],
)
def test_bundles_that_cannot_hold_levels_are_refused(
    bundle, seal, demo_levels, tmp_path, change, reason
):
    seal(bundle, change)
    (bundle / "source.safetensors").unlink()
    refused(edgemem.BundleError, reason, demo_levels, bundle, tmp_path / "new")


def test_only_a_bundle_beside_both_is_replaced(bundle, demo_levels, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused(edgemem.InputError, "is not a bundle", demo_levels, bundle, tmp_path / "mine")
    for out in (bundle, bundle / "new"):
        refused(edgemem.InputError, "lie in each other", demo_levels, bundle, out)
    whole = ship(demo_levels, bundle, tmp_path / "whole").path
    refused(edgemem.InputError, "lie in each other", whole / "bank", bundle, whole)
    missing = tmp_path / "none" / "new"
    with pytest.raises(edgemem.InputError, match="cannot be written"):
        ship(demo_levels, bundle, missing)


def test_a_full_disk_leaves_the_old_bundle(bundle, demo_levels, tmp_path, monkeypatch):
    out = ship(demo_levels, bundle, tmp_path / "new").path

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgemem.bank.building.ship.shutil.copyfile", fail)
    refused(edgemem.InputError, "No space left", demo_levels, bundle, out)
