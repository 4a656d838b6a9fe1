"""Streams against numpy as the oracle, and files that are not streams."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgemem
from edgemem.demo import STREAM
from edgemem.errors import InputError
from edgemem.runtime.tools import stream as module
from edgemem.runtime.tools.stream import Stream

DTYPES = ("uint8", "float32", "float64", ">f4", "int16", "bool")


def frames(dtype, count=7, shape=(2, 3)):
    return np.random.default_rng(0).integers(0, 255, (count, *shape)).astype(dtype)


def saved(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


def joined(stream, size):
    parts, position = [], 0
    for start, part in stream.chunks(size):
        assert start == position and 0 < len(part) <= size and part.dtype == stream.dtype
        position += len(part)
        parts.append(part)
    return np.concatenate(parts)


def refused(path, reason):
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(edgemem.InputError) as caught:
        Stream(path)
    assert str(path) in caught.value.thing
    assert reason in caught.value.reason, caught.value
    assert caught.value.remedy
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_chunks_are_what_numpy_loads(tmp_path, save, dtype, size):
    x = frames(dtype)
    stream = Stream(saved(tmp_path / "s.npz", save, x=x))
    assert (stream.frames, stream.shape, stream.dtype) == (len(x), x.shape[1:], x.dtype)
    assert stream.labels is None and stream.contexts is None
    found = joined(stream, size)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(joined(stream, size), found)


def test_the_packaged_stream_is_what_numpy_loads():
    stream = Stream(STREAM)
    with np.load(STREAM) as data:
        np.testing.assert_array_equal(joined(stream, 1000), data["x"])
        np.testing.assert_array_equal(stream.labels, data["y"])
        np.testing.assert_array_equal(stream.contexts, data["context"])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64"])
def test_labels_of_any_integer_kind_are_taken(tmp_path, dtype):
    y = np.arange(7).astype(dtype)
    stream = Stream(saved(tmp_path / "s.npz", x=frames("uint8"), y=y))
    assert stream.labels.dtype == np.int64
    np.testing.assert_array_equal(stream.labels, y)


@pytest.mark.parametrize("values", [["fog"] * 7, [b"fog"] * 7, list(range(7))])
def test_contexts_of_any_plain_kind_become_text(tmp_path, values):
    stream = Stream(saved(tmp_path / "s.npz", x=frames("uint8"), context=values))
    assert stream.contexts.tolist() == [v.decode() if v == b"fog" else str(v) for v in values]


def test_a_stream_larger_than_a_chunk_is_not_read_at_once(tmp_path):
    import tracemalloc

    x = np.zeros((4000, 1000), np.uint8)
    stream = Stream(saved(tmp_path / "s.npz", np.savez_compressed, x=x))
    tracemalloc.start()
    try:
        total = sum(len(part) for _, part in stream.chunks(10))
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 4
    finally:
        tracemalloc.stop()
    assert total == len(x)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": frames("uint8", 0)}, "holds no frames"),
        ({"x": np.array(3)}, "not a plain array"),
        ({"x": np.asfortranarray(frames("uint8"))}, "column by column"),
        ({"x": np.array([None] * 3)}, "Object arrays cannot be loaded"),
        ({"z": frames("uint8")}, "x.npy"),
        ({"x": frames("uint8"), "y": np.zeros(6, int)}, "has shape [6] for 7 frames"),
        ({"x": frames("uint8"), "y": np.zeros((7, 1), int)}, "has shape [7, 1] for 7 frames"),
        ({"x": frames("uint8"), "y": np.zeros(7)}, "has dtype float64"),
        ({"x": frames("uint8"), "y": np.array(["a"] * 7)}, "has dtype <U1"),
        ({"x": frames("uint8"), "y": np.array([None] * 7)}, "Object arrays cannot be loaded"),
        ({"x": frames("uint8"), "context": ["a"] * 8}, "has shape [8] for 7 frames"),
    ],
)
def test_arrays_that_make_no_stream_are_refused(tmp_path, arrays, reason):
    refused(saved(tmp_path / "s.npz", **arrays), reason)


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"\x93NUMPY", b"\x80\x04."])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    refused(tmp_path / "s.npz", "is not a readable stream")


def test_a_bare_array_is_refused_with_the_way_to_save_it(tmp_path):
    np.save(tmp_path / "s.npy", frames("uint8"))
    refused(tmp_path / "s.npy", "is not a readable stream")
    with pytest.raises(edgemem.InputError, match=r"numpy\.savez\(path, x=frames"):
        Stream(tmp_path / "s.npy")


def test_missing_files_and_folders_are_refused(tmp_path):
    refused(tmp_path / "missing.npz", "does not exist")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-1, 2)", "(7, 1000000)", "(1,)"])
def test_a_header_that_lies_about_the_size_is_refused(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(42)
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("x.npy", content)
    refused(tmp_path / "s.npz", "is not a readable stream")


@given(st.data())
def test_damage_gives_an_input_error_or_another_stream_never_another_error(tmp_path_factory, data):
    buffer = io.BytesIO()
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(buffer, x=frames("uint8"), y=np.arange(7), context=["a"] * 7)
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    try:
        stream = Stream(path)
        found = joined(stream, 3)
    except edgemem.InputError as error:
        assert str(path) in error.thing and error.remedy
    else:
        assert found.shape == (stream.frames, *stream.shape)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_frames_that_are_not_finite_are_found_and_left_out(tmp_path, size):
    x = frames("float32", count=200)
    bad = [0, 1, 2, 70, 199]
    x[bad, 1, 2] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    names = np.array([f"c{n}" for n in range(200)])
    stream = Stream(saved(tmp_path / "s.npz", x=x, y=np.arange(200), context=names))
    assert stream.bad_frames().tolist() == bad and stream.skipped == 0
    rest = stream.without(stream.bad_frames())
    assert (rest.frames, rest.skipped) == (195, 5)
    np.testing.assert_array_equal(joined(rest, size), np.delete(x, bad, 0))
    np.testing.assert_array_equal(rest.labels, np.delete(np.arange(200), bad))
    np.testing.assert_array_equal(rest.contexts, np.delete(names, bad))
    assert len(rest.bad_frames()) == 0
    assert stream.frames == 200 and len(stream.labels) == 200


def test_a_stream_of_which_nothing_is_left_is_refused(tmp_path):
    stream = Stream(saved(tmp_path / "s.npz", x=np.full((3, 2), np.nan, np.float32)))
    with pytest.raises(edgemem.InputError, match="holds no frame that can be used"):
        stream.without(stream.bad_frames())


def test_bytes_hold_no_bad_frame(tmp_path):
    assert len(Stream(saved(tmp_path / "s.npz", x=frames("uint8"))).bad_frames()) == 0


@pytest.mark.parametrize("name", ["y", "context"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_damaged_name_hides_no_array(tmp_path, name, place):
    """An archive holds each name twice: before the array, and in the list at its end."""
    path = tmp_path / "stream.npz"
    np.savez(path, x=np.zeros((3, 2)), y=np.arange(3), context=np.array(["a", "b", "c"]))
    content, text = bytearray(path.read_bytes()), f"{name}.npy".encode()
    at = content.find(text) if place == "first" else content.rfind(text)
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable stream"):
        Stream(path)


def test_a_small_file_of_many_names_takes_no_memory(tmp_path):
    """Names have their shape in the header: it is looked at before they are read."""
    import tracemalloc

    x, names = np.zeros((100_000, 1), np.uint8), np.zeros(100_000, "U700")
    path = saved(tmp_path / "s.npz", np.savez_compressed, x=x, context=names)
    assert path.stat().st_size < names.nbytes / 200
    tracemalloc.start()
    try:
        with pytest.raises(edgemem.InputError, match=r"context: takes 280,000,000 bytes"):
            Stream(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros((3, 0), np.uint8)}, "frames of no value"),
        ({"x": np.zeros((1 << 22) + 1, np.uint8)}, "4,194,305 frames, and 4,194,304 are allowed"),
        ({"x": np.zeros((1, 100_001), np.uint8)}, "frames of 100,001 bytes"),
        ({"x": np.array(["a"] * 3)}, "not a plain array of frames"),
        ({"x": frames("uint8"), "y": np.full(7, 2**63, np.uint64)}, "which is no class"),
        ({"x": frames("uint8"), "context": [b"\xff"] * 7}, "is not text"),
        (
            {"x": frames("uint8"), "context": np.full(7, 0x7FFFFFFF, np.uint32).view("U1")},
            "is not text",
        ),
        ({"x": np.zeros((5000, 1)), "context": np.arange(5000)}, "5,000 names"),
    ],
)
def test_values_without_bounds_are_refused(tmp_path, monkeypatch, arrays, reason):
    monkeypatch.setattr(module, "MOST_BYTES", 100_000)
    refused(saved(tmp_path / "s.npz", np.savez_compressed, **arrays), reason)


def test_calls_and_changes_under_way_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "s.npz", x=np.zeros((20, 10), np.uint8))
    monkeypatch.setattr(module, "CALL_BYTES", 160)
    assert len(next(Stream(path).chunks(16))[1]) == 16
    with pytest.raises(edgemem.InputError, match="Use fewer frames per call"):
        next(Stream(path).chunks(17))
    stream = Stream(saved(tmp_path / "s.npz", x=frames("uint8")))
    saved(path, x=frames("uint8", 8))
    with pytest.raises(edgemem.InputError, match="was changed while in use"):
        next(stream.chunks(1))
    path.unlink()
    with pytest.raises(edgemem.InputError):
        next(stream.chunks(1))
