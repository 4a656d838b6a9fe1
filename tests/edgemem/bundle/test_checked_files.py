import hashlib
import os

import pytest

from edgemem.bundle.checked_files import KnownFiles, OwnFiles
from edgemem.bundle.manifest import FileRecord
from edgemem.errors import BundleError

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


@pytest.fixture
def known(path):
    return KnownFiles({path: FileRecord(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())})


def flip(path):
    content = bytearray(CONTENT)
    content[-1] ^= 1
    path.write_bytes(content)


def grow(path):
    with path.open("ab") as file:
        file.write(b"x")


def flip_at_the_old_time(path):
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    path.with_name("other").write_bytes(CONTENT[::-1])
    path.with_name("other").replace(path)


def link_elsewhere(path):
    path.unlink()
    path.with_name("other").write_bytes(CONTENT[::-1])
    path.symlink_to(path.with_name("other"))


def remove(path):
    path.unlink()


def cut(path):
    os.truncate(path, 10)


CHANGES = [flip, grow, flip_at_the_old_time, replace, link_elsewhere, remove, cut]


def test_what_is_read_is_what_was_known(path, known):
    assert known.read(path) == CONTENT == OwnFiles().read(path)
    with known.steady(path), OwnFiles().steady(path):
        assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_is_refused_by_name(path, known, change):
    change(path)
    with pytest.raises(BundleError, match=f"{path.name}: (was changed|cannot be read)"):
        known.read(path)
    with (
        pytest.raises(BundleError, match=f"{path.name}: (was changed|cannot be read)"),
        known.steady(path),
    ):
        pytest.fail("it began")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_others_read_by_the_path_is_noticed_at_the_end(path, known, change):
    begun = False
    with (
        pytest.raises(BundleError, match=f"{path.name}: (was changed|cannot be read)"),
        known.steady(path),
    ):
        begun = True
        change(path)
    assert begun


def test_a_swap_that_was_undone_is_noticed(path, known):
    with pytest.raises(BundleError, match="was changed"), known.steady(path):
        aside = path.with_name("aside")
        path.rename(aside)
        path.write_bytes(CONTENT[::-1])
        aside.replace(path)
    assert known.read(path) == CONTENT


def test_an_error_within_is_the_one_that_comes_out(path, known):
    with pytest.raises(ZeroDivisionError), known.steady(path):
        raise ZeroDivisionError


def test_other_files_are_refused(path, known):
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    for way in (other, path.parent / "x" / ".." / "file"):
        with pytest.raises(BundleError, match="not a listed file"):
            known.read(way)
        with pytest.raises(BundleError, match="not a listed file"), known.steady(way):
            pytest.fail("it began")


def test_a_file_without_end_is_not_read_to_its_end(path, known):
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(BundleError, match="was changed"):
        known.read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(path, known):
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"was changed|cannot be read"):
        known.read(path)


def test_own_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(BundleError, match="nothing: cannot be read"):
        OwnFiles().read(tmp_path / "nothing")
