"""The whole runtime on LiteRT, against the same bundle on onnxruntime (`make test-litert`)."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from opening import opened_with
from sealing import reseal

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import STREAM
from edgemem.runtime.engines.litert_engine import LiteRtBackend
from edgemem.runtime.tools.verification import verify
from edgemem.testing import session_of

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: make test-litert")
if "EDGEMEM_LITERT_BUNDLE" not in os.environ:
    pytest.skip("no bundle with LiteRT graphs: make test-litert", allow_module_level=True)
BUNDLE = Path(os.environ["EDGEMEM_LITERT_BUNDLE"])
BATCH = 16
WITHIN = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def frames():
    with np.load(STREAM) as stream:  # what the model was trained on would teach nothing
        return stream["x"][stream["context"] != "clear"]


def opened(provider, **choices):
    return opened_with(BUNDLE, provider=provider, threads=1, **choices)


def test_the_file_has_a_signature_for_every_graph():
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(BUNDLE / "litert.tflite")).get_signature_list()
    assert set(signatures) == {"predict", "adapt", "key"}


def test_it_computes_what_torch_computed():
    found = verify(BUNDLE, threads=1, provider="litert")
    assert "litert" in found.engine
    assert found.limits == dict.fromkeys(("frozen", "adapt", "adapted"), 1e-4)
    assert max(found.frozen, found.adapt, found.adapted) <= 1e-4


def test_a_stream_is_answered_and_learnt_from_as_by_onnxruntime(frames):
    with opened("cpu") as one, opened("litert") as other:
        for start in range(0, 40 * BATCH, BATCH):
            part = frames[start : start + BATCH]
            expected, found = one.step(part), other.step(part)
            np.testing.assert_allclose(found.logits, expected.logits, **WITHIN)
            assert found.context == expected.context
        assert one.counters == other.counters and one.counters["updates"] == 40
        found = session_of(other).block
        for name, array in session_of(one).block.items():
            np.testing.assert_allclose(found[name], array, **WITHIN, err_msg=name)


@pytest.mark.parametrize("count", range(1, BATCH + 1))
def test_fewer_frames_than_the_graph_takes_are_filled_up(frames, count):
    with opened("cpu") as one, opened("litert") as other:
        for frozen in (False, True):
            expected = one.predict(frames[:count], frozen=frozen).logits
            found = other.predict(frames[:count], frozen=frozen).logits
            assert found.shape == (count, 10)
            np.testing.assert_allclose(found, expected, **WITHIN)


def test_single_frames_one_after_another(frames):
    with opened("cpu") as one, opened("litert") as other:
        for frame in frames[: 3 * BATCH]:
            np.testing.assert_allclose(other.step(frame).logits, one.step(frame).logits, **WITHIN)


def test_another_engine_goes_on_where_the_first_one_stopped(frames, tmp_path):
    state = tmp_path / "state.db"
    with opened("litert", state=state) as runtime:
        for start in range(0, 4 * BATCH, BATCH):
            runtime.step(frames[start : start + BATCH])
        expected = runtime.predict(frames[4 * BATCH : 5 * BATCH - 3]).logits
    with opened("cpu", state=state) as runtime:
        assert runtime.counters["updates"] == 4
        found = runtime.predict(frames[4 * BATCH : 5 * BATCH - 3]).logits
    np.testing.assert_allclose(found, expected, **WITHIN)


def test_steps_in_the_background_run_on_an_interpreter_of_their_own(frames):
    with opened("litert", background=True) as runtime:
        for start in range(0, 4 * BATCH, BATCH):
            runtime.step(frames[start : start + BATCH])
        runtime.flush()
        assert runtime.counters["updates"] >= 1


@pytest.fixture
def altered(tmp_path):
    """change of the manifest, content of the LiteRT file -> a sealed bundle."""

    def make(change=lambda manifest: None, content=None):
        copy = shutil.copytree(BUNDLE, tmp_path / "x.edgemem")
        if content is not None:
            (copy / "litert.tflite").write_bytes(content)
        reseal(copy, change)
        return copy

    return make


@pytest.mark.parametrize("content", [b"", b"no graph at all", "half"])
def test_a_file_that_is_no_graph_is_refused(altered, content):
    whole = (BUNDLE / "litert.tflite").read_bytes()
    path = altered(content=whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(edgemem.BundleError, match=r"litert\.tflite.* is refused by"):
        edgemem.open(path, provider="litert")


@pytest.mark.parametrize("names", ["inputs", "outputs"])
def test_names_that_do_not_fit_the_file_are_refused(altered, names):
    path = altered(lambda m: m["targets"]["litert"]["predict"][names].pop())
    with pytest.raises(edgemem.BundleError, match="unlike its manifest"):
        edgemem.open(path, provider="litert")


def test_a_signature_that_is_not_there_is_refused(altered):
    path = altered(lambda m: m["targets"]["litert"]["adapt"].update(signature="learn"))
    with pytest.raises(edgemem.BundleError, match="is refused by"):
        edgemem.open(path, provider="litert")


def test_a_binding_without_names_is_refused():
    with pytest.raises(edgemem.BundleError, match="has no names"):
        LiteRtBackend(1).open(BUNDLE / "litert.tflite", None)
    assert open_bundle(BUNDLE).manifest.binding("learn", "litert") is None
