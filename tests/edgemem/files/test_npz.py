"""Archives of arrays against numpy as the oracle, and what an attacker would put into one."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

import edgemem
from edgemem.files.npz import Npz

ARRAYS = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "swapped": np.linspace(0, 1, 6).astype(">f4"),
    "names": np.array(["fog", "Käfer", ""]),
    "raw": np.array([b"a", b"bc"]),
    "flags": np.array([[True], [False]]),
    "one": np.array(3.5),
    "none": np.zeros((0, 5)),
}


def opened(path):
    return Npz(Path(path), "is not an archive", "Make one")


def refused(path, name="x", most=1 << 20):
    with pytest.raises(edgemem.InputError) as caught:
        opened(path).array(name, most, "Use less")
    assert str(path) in caught.value.thing
    return str(caught.value)


def member(shape, descr="|u1", values=b"", version=(1, 0), fortran=False):
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    return npy.magic(*version) + length + header + values


def archive(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_what_numpy_loads(tmp_path, save, name):
    save(tmp_path / "a.npz", **ARRAYS)
    found = opened(tmp_path / "a.npz").array(name, 1 << 20, "Use less")
    with np.load(tmp_path / "a.npz") as data:
        np.testing.assert_array_equal(found, data[name])
        assert found.dtype == data[name].dtype and found.shape == data[name].shape
    assert found.flags.writeable


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_rows_are_what_numpy_loads(tmp_path, count):
    values = np.random.default_rng(0).normal(size=(7, 2, 3))
    np.savez_compressed(tmp_path / "a.npz", x=values)
    found = list(opened(tmp_path / "a.npz").rows("x", count))
    assert [len(part) for part in found[:-1]] == [count] * (len(found) - 1)
    np.testing.assert_array_equal(np.concatenate(found), values)


def test_a_small_file_of_a_large_array_takes_no_memory(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100_000_000, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 200_000
    tracemalloc.start()
    try:
        assert "takes 100,000,000 bytes, and 1,048,576 are allowed. Use less" in refused(
            tmp_path / "a.npz"
        )
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member((10**12,)), "0 bytes are not"),
        (member((10**30, 10**30)), "0 bytes are not"),
        (member((-1, 2)), "0 bytes are not"),
        (member((4,), values=bytes(3)), "3 bytes are not"),
        (member((3,), values=bytes(4)), "4 bytes are not"),
        (member((10**12,), "|S0"), "neither numbers nor text"),
        (member((10**12,), "|V0"), "neither numbers nor text"),
        (member((1,), "<M8[s]", bytes(8)), "neither numbers nor text"),
        (member((1,), "<c8", bytes(8)), "neither numbers nor text"),
        (member((1,), "|O", bytes(8)), "Object arrays"),
        (member((1,), [("a", "<i4")], bytes(4)), "neither numbers nor text"),
        (npy.magic(2, 0) + (1 << 31).to_bytes(4, "little") + b" " * 20_000, ""),
        (npy.magic(3, 0) + bytes(100), "format 3.0"),
        (npy.magic(1, 0) + (9000).to_bytes(2, "little") + b"(" * 9000, ""),
        (b"", ""),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, content, reason):
    said = refused(archive(tmp_path / "a.npz", x=content))
    assert "a.npz: is not an archive" in said and reason in said


def test_columns_are_refused_with_the_way_to_save_rows(tmp_path):
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "a.npz", x=values)
    said = refused(tmp_path / "a.npz")
    assert "column by column" in said and "x=numpy.ascontiguousarray" in said
    np.savez(tmp_path / "a.npz", x=np.ascontiguousarray(values))
    np.testing.assert_array_equal(Npz(tmp_path / "a.npz", "", "").array("x", 1000, ""), values)


def test_pickles_are_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "a.npz", x=np.array([Trap()], object))
    assert "Object arrays" in refused(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_numpy_does_not_use_are_refused(tmp_path, compression):
    content = member((4,), values=bytes(4))
    assert "does not use" in refused(archive(tmp_path / "a.npz", compression, x=content))


def test_paths_in_an_archive_lead_nowhere(tmp_path):
    content = member((4,), values=b"abcd")
    path = archive(tmp_path / "a.npz", **{"../x": content, "/x": content})
    assert "no item named 'x.npy'" in refused(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz"]


def test_two_arrays_of_one_name_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", member((1,), values=b"a"))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", member((1,), values=b"b"))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    assert "two arrays of one name" in refused(tmp_path / "a.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_plain_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert "is a pipe or a device" in refused(tmp_path / "pipe")
    assert "is a pipe or a device" in refused("/dev/zero")
    assert "cannot be read" in refused(tmp_path / "loop")
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "missing")
