"""What comes beside the frames on a device: checked, kept in rows, written to the state file."""

from dataclasses import replace

import numpy as np
import pytest

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.further_input import InputSpec
from edgemem.bundle.manifest_file import from_json, to_json
from edgemem.bundle.opening import open_bundle
from edgemem.bundle.reference_frames import reference_frames
from edgemem.bundle.rows import fields, frames_of, inputs_of, joined, layout
from edgemem.errors import BundleError, InputError
from edgemem.runtime.frames import checked
from edgemem.runtime.persistence.snapshot_checks import _kept_rows, kept_rows
from edgemem.runtime.step.ring import Ring

MASK = InputSpec("mask", "bool", (6,))
SIZE = InputSpec("size", "int64", (), 2, 9)
PLACE = InputSpec("place", "float32", (2,), -1.0, 1.0)
SPEC = FrameSpec((3, 6), 4, False, 0, inputs=(MASK, SIZE, PLACE))
TEXT = FrameSpec((6,), 4, False, 0, ids=(0, 49), inputs=(InputSpec("mask", "int64", (6,)),))


@pytest.fixture
def given():
    """Four frames, and inputs that fit them."""
    rng = np.random.default_rng(0)
    return rng.random((4, 3, 6), np.float32), {
        "mask": rng.random((4, 6)) > 0.5,
        "size": np.array([2, 3, 9, 4]),
        "place": rng.random((4, 2), np.float32),
    }


def test_rows_hold_what_was_given(given):
    x, inputs = given
    rows = checked(x, SPEC, inputs)
    assert len(rows) == 4 and rows.dtype == layout(SPEC)[1]
    found = fields(rows[1:3])
    assert list(found) == ["x", "in.mask", "in.size", "in.place"]
    assert np.array_equal(found["x"], x[1:3])
    for name, array in inputs.items():
        assert np.array_equal(found[f"in.{name}"], array[1:3])
        assert found[f"in.{name}"].dtype == array.dtype
        assert found[f"in.{name}"].flags.c_contiguous
    for array in fields(rows[:1]).values():  # numpy calls any strides of one row contiguous
        assert array.strides == np.zeros(array.shape, array.dtype).strides


def test_one_frame_comes_bare_with_what_belongs_to_it(given):
    x, inputs = given
    bare = {name: np.asarray(array[0]) for name, array in inputs.items()}
    rows = checked(x[0], SPEC, bare)
    whole = checked(x[:1], SPEC, {name: array[:1] for name, array in inputs.items()})
    assert rows.tobytes() == whole.tobytes()


WRONG = {
    "missing": ({"mask": None}, "input 'mask': is missing.*bool.n, 6."),
    "unknown": ({"other": np.zeros(4)}, "input 'other': is unknown.*mask, size, place"),
    "dtype": ({"mask": np.ones((4, 6), np.float32)}, "input 'mask': has dtype float32.*as bool"),
    "whole": ({"size": np.ones(4, np.float32)}, "input 'size': has dtype float32"),
    "shape": ({"place": np.ones((4, 3), np.float32)}, r"input 'place': has shape .4, 3.*4, 2"),
    "frames": ({"place": np.ones((3, 2), np.float32)}, "input 'place': has shape .3, 2"),
    "range": ({"size": np.array([2, 3, 10, 4])}, "input 'size': has numbers from 2 to 10.*2 to 9"),
    "nan": ({"place": np.full((4, 2), np.nan, np.float32)}, "input 'place': holds NaN"),
    "list": ({"size": [2, 3, 9, 4]}, "input 'size': is a list, not a numpy array"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_by_name(name, given):
    (changes, text), (x, inputs) = WRONG[name], given
    wrong = {k: v for k, v in (inputs | changes).items() if v is not None}
    with pytest.raises(InputError, match=text):
        checked(x, SPEC, wrong)


def test_a_bundle_of_frames_alone_takes_no_inputs(given):
    x, inputs = given
    with pytest.raises(InputError, match="input 'mask': is unknown to this bundle. Leave it out"):
        checked(x, replace(SPEC, inputs=()), {"mask": inputs["mask"]})
    with pytest.raises(InputError, match="inputs: are a ndarray, not a dict"):
        checked(x, SPEC, inputs["mask"])


def test_token_ids_are_whole_numbers_of_the_vocabulary():
    ids, mask = np.arange(24).reshape(4, 6), np.ones((4, 6), np.int64)
    rows = checked(ids.astype(np.int32), TEXT, {"mask": mask})
    assert frames_of(rows).dtype == np.int64 and np.array_equal(frames_of(rows), ids)
    for wrong, text in (
        (ids + 30, "frames: have numbers from 30 to 53. This bundle takes 0 to 49"),
        (ids.astype(np.float32), "frames: have dtype float32. Pass whole numbers"),
        (ids[:, :5], "takes .n, 6.. Pad or cut the token ids"),
    ):
        with pytest.raises(InputError, match=text):
            checked(wrong, TEXT, {"mask": mask})


@pytest.mark.parametrize("spec", [SPEC, TEXT], ids=["frames", "ids"])
def test_reference_rows_fit_and_hide_no_frame(spec):
    rows = reference_frames(spec, seed=3)
    assert rows.tobytes() == reference_frames(spec, seed=3).tobytes()
    assert rows.tobytes() != reference_frames(spec, seed=4).tobytes()
    again = checked(frames_of(rows), spec, inputs_of(rows))
    assert again.tobytes() == rows.tobytes()
    mask = inputs_of(rows)["mask"]
    assert mask.any(1).all() and not mask.all(1).any()  # whichever value of it hides a place


def test_the_ring_keeps_rows(given):
    x, inputs = given
    rows, ring = checked(x, SPEC, inputs), Ring(3, *layout(SPEC))
    ring.push(rows[:2])
    ring.push(rows[2:])
    assert ring.last(3).tobytes() == rows[1:].tobytes()
    ring.clear()
    assert ring.count == 0 and not frames_of(ring.last(3)).any()


@pytest.mark.parametrize("lost", [None, "in.mask", "in.size"])
def test_a_snapshot_gives_all_rows_back_or_none(lost, given, bundle):
    manifest = replace(open_bundle(bundle).manifest, frames=SPEC)
    rows = checked(given[0], SPEC, given[1])
    arrays = kept_rows(rows, 255.0)
    if lost is not None:
        del arrays[f"ring.{lost}"]
        assert _kept_rows(arrays, manifest) is None
        return
    found = _kept_rows(arrays, manifest)
    assert found is not None and found.dtype == rows.dtype
    for name, array in fields(rows).items():
        assert np.array_equal(fields(found)[name], array)
    arrays["ring.in.size"] = arrays["ring.in.size"] + 100
    assert _kept_rows(arrays, manifest) is None


@pytest.mark.parametrize("frames", [SPEC, TEXT], ids=["frames", "ids"])
def test_a_manifest_says_what_comes_beside_frames(frames, bundle):
    manifest = replace(open_bundle(bundle).manifest, frames=frames)
    assert from_json(to_json(manifest), "manifest.json").frames == frames
    twice = replace(frames, inputs=(frames.inputs[0], frames.inputs[0]))
    with pytest.raises(BundleError, match="two inputs have the same name"):
        from_json(to_json(replace(manifest, frames=twice)), "manifest.json")


def test_joined_rows_are_plain_where_nothing_comes_beside(given):
    assert joined(given[0], {}) is given[0]
