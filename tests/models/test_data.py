"""Source data: an .npz with x and y, or class folders of images."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgemem.errors import InputError
from edgemem.models.data import class_names, load_dataset

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (6, 3, 5, 4), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("frames", "dtype"),
    [
        (FRAMES, np.uint8),
        (FRAMES / 255, np.float32),
        (FRAMES.astype(np.float16), np.float32),
        (RNG.normal(size=(6, 9, 40)), np.float32),
    ],
    ids=["bytes", "double", "half", "signals"],
)
def test_an_npz_gives_frames_and_labels(save, frames, dtype, tmp_path):
    save(tmp_path / "train.npz", x=frames, y=LABELS.astype(np.uint8))
    x, y = load_dataset(tmp_path / "train.npz")
    assert x.dtype == dtype
    assert (x == frames.astype(dtype)).all()
    assert y.dtype == np.int64
    assert (y == LABELS).all()


def images(folder, classes=("cat", "ant", "bee"), size=(4, 5)):
    """Class folders with two PNGs each; the pixels by path."""
    pixels = {}
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in (1, 0):
            path = folder / name / f"{number}.png"
            pixels[path] = RNG.integers(0, 256, (*size[::-1], 3), np.uint8)
            Image.fromarray(pixels[path]).save(path)
    return pixels


def test_class_folders_are_numbered_in_alphabetical_order(tmp_path):
    pixels = images(tmp_path)
    (tmp_path / "notes.txt").write_text("not a class")
    x, y = load_dataset(tmp_path)
    assert x.shape == (6, 3, 5, 4)
    assert x.dtype == np.uint8
    assert x.flags.c_contiguous
    assert (y == [0, 0, 1, 1, 2, 2]).all()
    order = [tmp_path / name / f"{n}.png" for name in ("ant", "bee", "cat") for n in (0, 1)]
    assert (x == np.stack([pixels[path] for path in order]).transpose(0, 3, 1, 2)).all()


def test_grey_images_become_three_equal_channels(tmp_path):
    (tmp_path / "ant").mkdir()
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(tmp_path / "ant" / "0.png")
    x, _ = load_dataset(tmp_path)
    assert (x == 77).all()
    assert x.shape == (1, 3, 4, 4)


BAD_ARRAYS = {
    "holds no frames": {"x": FRAMES[:0], "y": LABELS[:0]},
    "6 frames but 5 labels": {"x": FRAMES, "y": LABELS[1:]},
    "NaN or infinite": {"x": np.where(FRAMES > 250, np.nan, 1.0), "y": LABELS},
    r"y: is <U3\[6\]": {"x": FRAMES, "y": np.array(["cat"] * 6)},
    r"y: is float64\[6\]": {"x": FRAMES, "y": LABELS / 2},
    r"y: is int64\[6, 1\]": {"x": FRAMES, "y": LABELS[:, None]},
    r"x: is uint8\[6\]": {"x": FRAMES[:, 0, 0, 0], "y": LABELS},
    r"x: is uint8\[\]": {"x": FRAMES[0, 0, 0, 0], "y": LABELS},
    r"x: is <U1\[1, 1, 1\]": {"x": np.array([[["a"]]]), "y": LABELS[:1]},
    r"x: is int64\[6, 3, \d, \d\], .*uint8 or float32": {"x": FRAMES.astype(int), "y": LABELS},
    r"complex128": {"x": FRAMES * 1j, "y": LABELS},
    "y.npy": {"x": FRAMES},
    "x.npy": {"images": FRAMES, "y": LABELS},
    "Object arrays": {"x": FRAMES, "y": np.array([None] * 6)},
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_arrays_that_are_no_data_set_are_refused(message, tmp_path):
    np.savez(tmp_path / "train.npz", **BAD_ARRAYS[message])
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path / "train.npz")


@pytest.mark.parametrize("shape", [(6, 7), (6, 2, 9), (6, 1, 3, 4, 5)], ids=str)
def test_frames_may_be_vectors_signals_or_volumes(shape, tmp_path):
    x = np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "train.npz", x=x, y=LABELS)
    frames, _ = load_dataset(tmp_path / "train.npz")
    assert frames.dtype == np.float32
    assert (frames == x.astype(np.float32)).all()


def test_numbers_too_large_for_float32_are_refused_as_infinite(tmp_path):
    np.savez(tmp_path / "train.npz", x=FRAMES * 1e300, y=LABELS)
    with pytest.raises(InputError, match="NaN or infinite"):
        load_dataset(tmp_path / "train.npz")


def test_a_missing_file_and_a_file_of_another_kind_are_named(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    (tmp_path / "x.csv").write_text("1,2,3")
    with pytest.raises(InputError, match=r"none\.npz: does not exist"):
        load_dataset(tmp_path / "none.npz")
    for name in ("x.npy", "x.csv"):
        with pytest.raises(InputError, match=rf"{name}: is not an \.npz file"):
            load_dataset(tmp_path / name)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_npz_gives_our_error_or_arrays(tmp_path, data):
    """Cut off anywhere, or with any bytes changed; no file handle is left open either."""
    buffer = io.BytesIO()
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(buffer, x=FRAMES, y=LABELS)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content) - 1)))
    path = tmp_path / "train.npz"
    path.write_bytes(content[:keep])
    try:
        x, y = load_dataset(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert len(x) == len(y)


@pytest.mark.parametrize("classes", [(), ("ant",)])
def test_a_folder_without_images_is_refused(classes, tmp_path):
    for name in classes:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no class folders with images"):
        load_dataset(tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    images(tmp_path)
    (tmp_path / "bee" / "2.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(InputError, match=r"bee/2\.png: is not a readable image"):
        load_dataset(tmp_path)


def test_an_image_cut_off_in_the_middle_is_named(tmp_path):
    path = max(images(tmp_path, size=(64, 64)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=path.name):
        load_dataset(tmp_path)


def test_images_of_different_sizes_are_refused(tmp_path):
    images(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "9.png")
    with pytest.raises(InputError, match=r"9\.png: has size \(9, 9\), the first image \(5, 4\)"):
        load_dataset(tmp_path)


def test_what_systems_and_editors_leave_behind_is_no_class_and_no_image(tmp_path):
    images(tmp_path)
    before, labels = load_dataset(tmp_path)
    for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"no image")
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "ant" / name).write_bytes(b"no image")
    (tmp_path / "ant" / ".ipynb_checkpoints").mkdir()
    after, again = load_dataset(tmp_path)
    assert (after == before).all()
    assert (again == labels).all()
    assert class_names(tmp_path) == ("ant", "bee", "cat")


def test_a_class_without_pictures_keeps_its_number(tmp_path):
    images(tmp_path)
    (tmp_path / "bat").mkdir()
    assert set(load_dataset(tmp_path)[1]) == {0, 2, 3}
    assert class_names(tmp_path) == ("ant", "bat", "bee", "cat")


def test_names_in_another_order_number_the_folders(tmp_path):
    images(tmp_path)
    x, y = load_dataset(tmp_path, ("dog", "cat", "bee", "ant"))
    assert (y == [3, 3, 2, 2, 1, 1]).all()
    assert (x == load_dataset(tmp_path)[0]).all()
    with pytest.raises(InputError, match="cat: is not one of the classes ant, bee"):
        load_dataset(tmp_path, ("ant", "bee"))


def test_a_file_has_no_class_names(tmp_path):
    np.savez(tmp_path / "train.npz", x=FRAMES, y=LABELS)
    assert class_names(tmp_path / "train.npz") is None


def test_labels_of_a_multi_label_model_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "train.npz", x=FRAMES, y=np.eye(3, dtype=int)[LABELS])
    with pytest.raises(InputError, match=r"several labels a frame.*multi-label.*argmax"):
        load_dataset(tmp_path / "train.npz")
