"""Recent frames in the state: small where they were uint8, and always the same numbers again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgemem.runtime.persistence.snapshot_checks import packed_frames, unpacked_frames

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=5)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays.arrays(np.uint8, SHAPES), st.sampled_from([1.0, 127.5, 255.0, 3.0]))
def test_frames_that_were_uint8_take_a_byte_a_number(frames, scale):
    floats = frames.astype(np.float32) / np.float32(scale)
    packed = packed_frames(floats, scale)
    np.testing.assert_array_equal(unpacked_frames(packed, scale), floats)
    assert packed.dtype == np.uint8


@given(arrays.arrays(np.float32, SHAPES, elements=FLOATS), st.sampled_from([1.0, 255.0]))
def test_any_frames_come_back_bit_for_bit(frames, scale):
    found = unpacked_frames(packed_frames(frames, scale), scale)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, frames)
