import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemem.errors import BundleError, InputError
from edgemem.files import atomic

piece = st.one_of(
    st.sampled_from(["..", ".", "", "a", "bank", "C:", "\\", "a\\..\\b", "\0", " "]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@given(st.lists(piece, max_size=5).map("/".join))
def test_an_accepted_name_stays_inside_and_every_other_is_refused_by_name(name):
    folder = Path("/nowhere/bundle.edgemem")
    try:
        path = atomic.inside(folder, name, BundleError)
    except BundleError as error:
        assert repr(name) in str(error) and "export it again" in error.remedy
    else:
        assert os.path.normpath(path).startswith(f"{folder}")
        assert "\\" not in name and "\0" not in name


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\b", "", "x\0"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(BundleError, match="leaves the folder"):
        atomic.inside(tmp_path, name, BundleError)


@pytest.mark.parametrize("name", ["link/x", "sub/link/x", "link/sub/x"])
def test_folders_that_are_links_are_refused_wherever_they_are_in_the_path(tmp_path, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    (tmp_path / "sub" / "link").symlink_to("/etc")
    with pytest.raises(BundleError, match="passes through a link"):
        atomic.inside(tmp_path, name, BundleError)


@pytest.mark.parametrize("name", ["link", "sub/link"])
def test_a_file_may_be_a_link_to_elsewhere(tmp_path, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / name).symlink_to("/etc/hostname")
    assert atomic.inside(tmp_path, name, BundleError) == tmp_path / name


def test_the_hash_is_that_of_all_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "HASH_CHUNK", 7)
    content = bytes(range(250))
    (tmp_path / "f").write_bytes(content)
    assert atomic.sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_writing_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "f"
    for content in (b"old", b"new"):
        atomic.write_file(path, content)
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such modes")
@pytest.mark.parametrize("before", [None, 0o600, 0o666])
def test_a_private_file_is_its_owners_alone_whatever_was_there(tmp_path, before):
    for private, mode in ((True, 0o600), (False, 0o644)):
        path = tmp_path / f"{private}"
        if before is not None:
            path.touch()
            path.chmod(before)
        atomic.write_file(path, b"x", private=private)
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("target", ["edgemem.files.atomic.os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, target):
    path = tmp_path / "f"
    atomic.write_file(path, b"old")
    monkeypatch.setattr(target, full)
    with pytest.raises(InputError, match=r"f: cannot be written \(No space left.*has space"):
        atomic.write_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="Choose a folder that exists"):
        atomic.write_file(tmp_path / "missing" / "f", b"")


def test_a_new_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "out"
    with atomic.new_folder(target) as draft:
        (draft / "f").write_bytes(b"content")
        assert not target.exists()
    assert (target / "f").read_bytes() == b"content" and list(tmp_path.iterdir()) == [target]


def test_an_old_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "out"
    for name in ("first", "second"):
        with atomic.new_folder(target) as draft:
            (draft / name).write_bytes(b"")
    assert [file.name for file in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", ["while filling", "while syncing", "while renaming"])
def test_a_failure_keeps_the_old_folder_and_leaves_no_draft(tmp_path, monkeypatch, failure):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_bytes(b"")
    rename = Path.rename

    def rename_but_not_the_draft(path, to):
        return rename(path, to) if path.parent != tmp_path or path == target else full()

    with pytest.raises(InputError, match="cannot be written"), atomic.new_folder(target):
        if failure == "while filling":
            full()
        elif failure == "while syncing":
            monkeypatch.setattr(atomic, "sync_tree", full)
        else:
            monkeypatch.setattr(Path, "rename", rename_but_not_the_draft)
    monkeypatch.undo()
    assert [file.name for file in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "other", "link to a pipe"])
def test_what_is_there_and_is_of_another_kind_is_not_replaced(tmp_path, kind):
    """As root, a pipe or device that somebody names would be gone."""
    for name, write in (
        ("file", lambda path: atomic.write_file(path, b"new")),
        ("folder", lambda path: atomic.new_folder(path).__enter__()),
    ):
        path = tmp_path / name
        if kind == "other":
            path.mkdir() if name == "file" else path.write_bytes(b"mine")
        else:
            os.mkfifo(tmp_path / f"{name}.pipe")
            place = tmp_path / f"{name}.pipe"
            path.symlink_to(place) if kind == "link to a pipe" else place.rename(path)
        before = path.lstat()
        with pytest.raises(InputError, match="is there, and is not a"):
            write(path)
        assert path.lstat() == before
