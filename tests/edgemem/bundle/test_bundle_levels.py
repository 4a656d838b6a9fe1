"""Bundles with levels of a bank: what opening checks, and what it leaves to the first use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.bundle.opening import check_levels, open_bundle
from edgemem.demo import BUNDLE

FIRST, SECOND = "bank/level-1.safetensors", "bank/level-2.safetensors"


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_bundle_knows_whether_it_has_levels(shipped_bundle):
    assert open_bundle(BUNDLE).bank is None
    found = open_bundle(shipped_bundle)
    assert found.bank == shipped_bundle / "bank"
    assert found.manifest.levels == [FIRST, SECOND]
    with ShippedBank(found.bank, found.manifest.block.elements) as bank:
        assert (len(bank.levels), bank.key_length) == (2, found.manifest.key)


def test_a_flipped_byte_of_a_row_costs_its_row_and_is_found_by_hashing(shipped_bundle):
    flip(shipped_bundle / SECOND, -1)
    found = open_bundle(shipped_bundle)
    with ShippedBank(found.bank, found.manifest.block.elements) as bank:
        faults = []
        assert bank.sum_rows((0, 0), faults).any() and faults == []
        bank.sum_rows((1, 3), faults)
        assert "row 3" in faults[0]
    with pytest.raises(edgemem.BundleError, match="level-2.safetensors: does not have the hash"):
        check_levels(found)


def test_hashing_tells_of_every_level_how_far_it_is(shipped_bundle):
    found, told = open_bundle(shipped_bundle), []
    check_levels(found, lambda *told_now: told.append(told_now))
    sizes = [found.manifest.files[name].size for name in (FIRST, SECOND)]
    assert told == [
        (FIRST, 0, sizes[0]), (FIRST, sizes[0], sizes[0]),
        (SECOND, 0, sizes[1]), (SECOND, sizes[1], sizes[1]),
    ]  # fmt: skip
    check_levels(open_bundle(BUNDLE))


def test_opening_reads_no_rows(shipped_bundle, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "edgemem.bundle.opening.sha256_rest", lambda file: hashed.append(Path(file.name)) or ""
    )
    with pytest.raises(edgemem.BundleError, match="hash"):
        open_bundle(shipped_bundle)
    records = json.loads((shipped_bundle / "manifest.json").read_text())["files"]
    by_path = {shipped_bundle / name: record["sha256"] for name, record in records.items()}
    monkeypatch.setattr(
        "edgemem.bundle.opening.sha256_rest",
        lambda f: hashed.append(Path(f.name)) or by_path[Path(f.name)],
    )
    hashed.clear()
    open_bundle(shipped_bundle)
    assert {path.name for path in hashed} == {name.rpartition("/")[2] for name in records} - {
        "level-1.safetensors", "level-2.safetensors"
    }  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_level_is_an_error_or_only_costs_rows(data, shipped_bundle):
    path = shipped_bundle / data.draw(st.sampled_from([FIRST, SECOND]))
    content = path.read_bytes()
    changed, size = bytearray(content), len(content)
    # Most of the file is rows; the header is where it matters.
    position = data.draw(st.integers(0, 1200) | st.integers(0, size - 1))
    if data.draw(st.booleans()):
        changed[position] ^= data.draw(st.integers(1, 255))
    else:
        del changed[position:]
    path.write_bytes(changed)
    try:
        found = open_bundle(shipped_bundle)
        assert len(changed) == size
        with pytest.raises(edgemem.BundleError, match=path.name):
            check_levels(found)
        with ShippedBank(found.bank, found.manifest.block.elements) as bank:
            bank.sum_rows((0, 1), [])
    except edgemem.BundleError as error:
        assert path.name in error.thing and error.reason and error.remedy
    finally:
        path.write_bytes(content)


def relisted(manifest, old, new):
    manifest["files"][new] = manifest["files"].pop(old)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(source=None), "there are no source keys"),
        (lambda m: m["block"][0].update(dtype="float16"), "is float16"),
        (lambda m: m.update(generic_block=FIRST), "has the name of a level"),
        (lambda m: m["graphs"].update(predict=SECOND), "has the name of a level"),
        (lambda m: m.update(source=SECOND), "has the name of a level"),
        (lambda m: m["files"].pop(SECOND), "level-2.safetensors: is not in the manifest"),
        (lambda m: relisted(m, SECOND, "bank/level-3.safetensors"), "level-3.*is missing"),
    ],
)
def test_a_manifest_that_does_not_fit_its_levels_is_refused(shipped_bundle, seal, change, reason):
    seal(shipped_bundle, change)
    with pytest.raises(edgemem.BundleError, match=reason):
        open_bundle(shipped_bundle)


def test_a_gap_between_levels_is_refused(shipped_bundle, seal):
    (shipped_bundle / SECOND).rename(shipped_bundle / "bank/level-3.safetensors")
    seal(shipped_bundle, lambda m: relisted(m, SECOND, "bank/level-3.safetensors"))
    with pytest.raises(edgemem.BundleError, match=r"has no level-2\.safetensors"):
        open_bundle(shipped_bundle)


@pytest.mark.parametrize(
    ("length", "elements", "reason"),
    [(47, 42_972, "numbers in a key, not 48"), (48, 9, "numbers in a block, not 42972")],
)
def test_levels_of_another_bundle_are_refused(
    shipped_bundle, seal, tmp_path, length, elements, reason
):
    np.save(tmp_path / "keys.npy", np.eye(4, length, dtype=np.float32))
    build_bank(tmp_path / "keys.npy", tmp_path / "b", levels=1, branch=2, elements=elements)
    shutil.copy(tmp_path / "b" / "level-1.safetensors", shipped_bundle / "bank")
    (shipped_bundle / SECOND).unlink()
    seal(shipped_bundle, lambda m: m["files"].pop(SECOND))
    with pytest.raises(edgemem.BundleError, match=reason):
        open_bundle(shipped_bundle)


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_missing_and_cut_levels_are_refused(shipped_bundle, tmp_path, name):
    path, size = shipped_bundle / name, (shipped_bundle / name).stat().st_size
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(edgemem.BundleError, match=f"{name}: is missing"):
        open_bundle(shipped_bundle)
    path.write_bytes((tmp_path / "elsewhere").read_bytes()[:-1])
    with pytest.raises(edgemem.BundleError, match=f"has {size - 1} bytes instead of {size}"):
        open_bundle(shipped_bundle)


def test_other_names_in_the_folder_of_the_bank_are_hashed_like_any_file(shipped_bundle, seal):
    name = "bank/level-01.safetensors"
    (shipped_bundle / name).write_bytes(b"notes")
    seal(shipped_bundle, lambda m: m["files"].update({name: {}}))
    assert open_bundle(shipped_bundle).manifest.levels == [FIRST, SECOND]
    flip(shipped_bundle / name, 0)
    with pytest.raises(edgemem.BundleError, match="level-01.safetensors: does not have the hash"):
        open_bundle(shipped_bundle)
