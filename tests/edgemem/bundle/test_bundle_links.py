"""Bundles as hubs and systems leave them: links into a store, files of their own beside."""

import importlib.resources
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from opening import opened_with

import edgemem
from edgemem.bank.building.ship import ship
from edgemem.bundle.opening import check_levels, open_bundle
from edgemem.cli import main
from edgemem.demo import BUNDLE
from edgemem.runtime.tools.verification import verify


def stored(bundle, snapshot, store, fanned_out=False):
    """A snapshot of links into a store of files without names, as hubs keep them."""
    for number, file in enumerate(sorted(p for p in bundle.rglob("*") if p.is_file())):
        blob = store / (f"{number:02}" if fanned_out else "") / f"blob{number}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture(params=[False, True], ids=["one folder of blobs", "a folder for each"])
def hub(request, tmp_path):
    return stored(BUNDLE, tmp_path / "hub/snapshots/1", tmp_path / "hub/blobs", request.param)


def answers(bundle, frames, **options):
    with opened_with(bundle, threads=1, provider="cpu", **options) as runtime:
        return [runtime.step(frames).logits for _ in range(3)]


def test_a_snapshot_of_links_is_the_same_bundle(hub, digits_stream):
    frames = digits_stream[0][:16]
    assert open_bundle(hub).identity == open_bundle(BUNDLE).identity
    np.testing.assert_array_equal(answers(hub, frames), answers(BUNDLE, frames))


@pytest.mark.parametrize("options", [{"memory_budget": "1GB"}, {"cache": True}], ids=str)
def test_all_ways_to_open_a_graph_follow_links(hub, tmp_path, digits_stream, options):
    options = {k: tmp_path / "cache" if v is True else v for k, v in options.items()}
    frames = digits_stream[0][:16]
    expected = answers(BUNDLE, frames)
    for _ in range(2):  # the second time from the cache
        np.testing.assert_allclose(answers(hub, frames, **options), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["predict.onnx", "weights.bin", "manifest.json"])
def test_one_file_may_be_a_link_and_the_others_plain(bundle, tmp_path, digits_stream, name):
    (tmp_path / "far").mkdir()
    shutil.move(bundle / name, tmp_path / "far/blob")
    (bundle / name).symlink_to(tmp_path / "far/blob")
    frames = digits_stream[0][:16]
    np.testing.assert_array_equal(answers(bundle, frames), answers(BUNDLE, frames))


def test_the_other_commands_follow_links_too(hub, tmp_path, demo_levels, monkeypatch, capsys):
    found = verify(hub, 1)
    assert all(getattr(found, name) <= limit for name, limit in found.limits.items())
    ship(demo_levels, hub, tmp_path / "shipped")
    assert not any(path.is_symlink() for path in (tmp_path / "shipped").rglob("*"))
    linked = stored(tmp_path / "shipped", tmp_path / "linked", tmp_path / "store")
    check_levels(open_bundle(linked))
    monkeypatch.setattr(sys, "argv", ["edgemem", "inspect", str(linked)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "bank/level-1" in capsys.readouterr().out


def test_what_is_behind_a_link_is_checked_as_any_file(hub):
    blob = (hub / "weights.bin").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(edgemem.BundleError, match=r"weights\.bin: does not have the hash"):
        open_bundle(hub)
    blob.write_bytes(content[:-1])
    with pytest.raises(edgemem.BundleError, match=r"weights\.bin: has \d+ bytes instead"):
        open_bundle(hub)
    blob.unlink()
    with pytest.raises(edgemem.BundleError, match=r"weights\.bin: is a link to a file that is not"):
        open_bundle(hub)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["folder", "pipe", "itself"])
def test_a_link_to_what_is_no_file_is_refused_and_never_waited_for(bundle, tmp_path, kind):
    target = bundle / "weights.bin"
    target.unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / "there")
    else:
        (tmp_path / "there").mkdir()
    target.symlink_to(target if kind == "itself" else tmp_path / "there")
    with pytest.raises(
        edgemem.BundleError, match="link to a file that is not there|cannot be read"
    ):
        open_bundle(bundle)


def test_a_folder_that_is_a_link_is_refused(bundle, tmp_path):
    shutil.move(bundle / "bank", tmp_path / "elsewhere")
    (bundle / "bank").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(edgemem.BundleError, match="passes through a link"):
        open_bundle(bundle)


LEFT = (
    ".gitattributes", ".git/HEAD", ".cache/huggingface/download/weights.bin.metadata",
    ".DS_Store", "bank/.DS_Store", "._manifest.json", "Thumbs.db", "desktop.ini", "README.md",
)  # fmt: skip


def test_files_that_hubs_and_systems_leave_are_passed_over(bundle, tmp_path):
    for name in LEFT:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"x")
    (bundle / ".link").symlink_to(tmp_path)
    assert open_bundle(bundle).identity == open_bundle(BUNDLE).identity


@pytest.mark.parametrize("name", ["predict.onnx.bak", "LICENSE", "model/.keep/../x", "bank/a.db"])
def test_any_other_file_is_refused(bundle, name):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / "model/.keep").mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"x")
    with pytest.raises(edgemem.BundleError, match="is not in the manifest"):
        open_bundle(bundle)


def test_a_bundle_inside_a_zipped_package_is_refused_by_name(tmp_path, monkeypatch):
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("packed_app/__init__.py", "")
        for file in BUNDLE.rglob("*"):
            packed.write(file, f"packed_app/digits.edgemem/{file.relative_to(BUNDLE)}")
    monkeypatch.syspath_prepend(str(archive))
    resource = importlib.resources.files("packed_app") / "digits.edgemem"
    for place in (resource, str(archive / "packed_app/digits.edgemem"), Path(archive) / "x"):
        with pytest.raises(edgemem.BundleError, match=r"lies inside .*Unpack it") as caught:
            edgemem.open(place, threads=1)
        assert "digits.edgemem" in str(caught.value) or "app.zip" in str(caught.value)
    with zipfile.ZipFile(archive) as packed:  # the remedy
        packed.extractall(tmp_path / "unpacked")
    open_bundle(tmp_path / "unpacked/packed_app/digits.edgemem")
