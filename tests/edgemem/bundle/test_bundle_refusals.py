"""What a bundle folder can be instead of a bundle, and what stays as it was."""

import json
import sys

import numpy as np
import pytest
from sealing import sealed

import edgemem
from edgemem.block import pack
from edgemem.bundle import opening as bundle_module
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder, thing, reason):
    before = snapshot(folder) if folder.is_dir() else None
    with pytest.raises(edgemem.BundleError) as caught:
        open_bundle(folder)
    assert thing in caught.value.thing, caught.value
    assert reason in caught.value.reason, caught.value
    assert caught.value.remedy
    assert before is None or snapshot(folder) == before


LISTED = sorted(json.loads((BUNDLE / "manifest.json").read_text())["files"])


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    refused(bundle, name, "is missing")


@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_file_is_named_with_both_sizes(bundle, name):
    size = (bundle / name).stat().st_size
    with (bundle / name).open("rb+") as file:
        file.truncate(size - 1)
    refused(bundle, name, f"has {size - 1} bytes instead of {size}")


@pytest.mark.parametrize("name", LISTED)
def test_a_changed_file_of_the_same_size_is_named(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    refused(bundle, name, "does not have the hash in the manifest")


def test_a_folder_in_the_place_of_a_file_is_refused(bundle):
    (bundle / "weights.bin").unlink()
    (bundle / "weights.bin").mkdir()
    refused(bundle, "weights.bin", "is missing")


@pytest.mark.parametrize("path", ["missing", "missing\0", "n" * 300])
def test_a_path_that_is_no_folder_is_named(tmp_path, path):
    with pytest.raises(edgemem.BundleError, match=path[:7]):
        open_bundle(tmp_path / path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    refused(tmp_path, str(tmp_path), "has no manifest.json")


def test_a_manifest_of_absurd_size_is_not_read(bundle, monkeypatch):
    monkeypatch.setattr(bundle_module, "MOST_BYTES", 100)
    refused(bundle, "manifest.json", "is too large")


@pytest.mark.skipif(sys.platform == "win32", reason="names are limited otherwise")
def test_a_listed_name_that_the_file_system_refuses_is_a_clear_error(bundle):
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"]["n" * 300] = {"size": 1, "sha256": ""}
    (bundle / "manifest.json").write_bytes(sealed(manifest))
    refused(bundle, "nnn", "cannot be read")


@pytest.mark.parametrize("name", ["extra", "bank/extra", "bank/level-1", "readme"])
def test_an_unlisted_file_is_named_wherever_it_is(bundle, name):
    (bundle / name).write_bytes(b"x")
    refused(bundle, name, "is not in the manifest")


def test_a_link_beside_the_listed_files_is_refused_even_to_a_folder(bundle, tmp_path):
    (bundle / "link").symlink_to(tmp_path)
    refused(bundle, "link", "is not in the manifest")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.popitem(), "is missing"),
        (lambda b: b.update(more=np.zeros(1, np.float32)), "is not in the block specification"),
        (lambda b: b.update({k: v.astype(np.float64) for k, v in b.items()}), "float64"),
        (lambda b: b.update({k: v[..., None] for k, v in b.items()}), ", 1], not float32["),
        (lambda b: b.update({k: np.full_like(v, np.inf) for k, v in b.items()}), "NaN or infinite"),
    ],
)
def test_a_generic_block_that_is_no_block_of_this_bundle_is_refused(bundle, seal, change, reason):
    arrays = dict(open_bundle(bundle).generic)
    with np.errstate(invalid="ignore"):
        change(arrays)
    path = bundle / "bank/generic.safetensors"
    # Not smaller than before, so that only the check on the arrays themselves can refuse.
    path.write_bytes(pack(arrays, {"padding": "." * path.stat().st_size}))
    seal(bundle)
    refused(bundle, "bank/generic.safetensors", reason)


def test_a_generic_block_that_is_no_safetensors_is_refused(bundle, seal):
    path = bundle / "bank/generic.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    seal(bundle)
    refused(bundle, "bank/generic.safetensors", "not readable safetensors")


def test_the_identity_changes_with_any_byte_of_the_manifest(bundle, seal):
    before = open_bundle(bundle).identity
    assert before == open_bundle(BUNDLE).identity
    seal(bundle, lambda m: m.update(name="other"))
    assert open_bundle(bundle).identity != before


def test_a_relative_path_works_after_the_working_directory_changed(
    bundle, monkeypatch, digits_stream
):
    x, _ = digits_stream
    monkeypatch.chdir(bundle.parent)
    with edgemem.open(bundle.name, threads=1) as runtime:
        monkeypatch.chdir("/")
        assert runtime.step(x[:16]).logits.shape == (16, 10)
