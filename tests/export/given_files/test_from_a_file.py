"""From nothing but an ONNX file to a device, by one command."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from commands import run_command

import edgemem
from edgemem.models.networks import digits
from edgemem.models.prototypes import PrototypeModel
from edgemem.models.prototypes.encoder import Encoder, EncoderSettings
from edgemem.models.prototypes.prototype_checkpoint import save_prototypes


@pytest.mark.slow
def test_a_bundle_answers_as_the_file_that_was_given(tmp_path, lively):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            lively(digits()), (torch.zeros(1, 1, 8, 8),), tmp_path / "digits.onnx", dynamo=False,
            input_names=["x"], training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    made = run_command(
        "export", "digits.onnx", "--norm-affine", "--batch", "4", "--out", "d.edgemem", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    given = onnxruntime.InferenceSession(tmp_path / "digits.onnx")  # for one frame at a time
    x = np.random.default_rng(0).random((6, 1, 8, 8), np.float32)
    expected = np.concatenate([given.run(None, {"x": frame[None]})[0] for frame in x])
    with edgemem.open(tmp_path / "d.edgemem", threads=1) as runtime:
        found = runtime.predict(x, frozen=True).logits
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * abs(expected).max())
        before = runtime.predict(x).logits
        for _ in range(3):
            runtime.step(x + 1)
        after = runtime.predict(x).logits
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)  # it has learnt


@pytest.mark.slow
def test_what_train_prototypes_wrote_becomes_a_bundle(tmp_path, lively):
    settings = EncoderSettings("classifier", None, (1, 8, 8))
    model = PrototypeModel(Encoder(lively(digits()), settings), 48).with_task([7, 3, 5]).eval()
    x = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    with torch.no_grad():
        features = model.features(torch.from_numpy(x))
        model.prototypes[0].copy_(features[:3])  # so that three frames are answered differently
    source = {"model": "edgemem.models.networks:digits", "model_arguments": ""}
    save_prototypes(model, tmp_path / "p.safetensors", settings, source)
    made = run_command(
        "export", "p.safetensors", "--norm-affine", "--batch", "4", "--out", "p.edgemem",
        cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with edgemem.open(tmp_path / "p.edgemem", threads=1) as runtime:
        found = runtime.predict(x, frozen=True)
    names = runtime.bundle.manifest.labels
    assert names == ("7", "3", "5")
    expected = model.predict(x).tolist()
    assert len(set(expected)) > 1
    assert [int(names[label]) for label in found.labels] == expected


def test_a_mistake_ends_with_one_line_and_code_two(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08\x12damaged")
    ended = run_command("export", "bad.onnx", "--out", "x.edgemem", cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "bad.onnx: is not a readable ONNX model" in ended.stderr
    assert not (tmp_path / "x.edgemem").exists()
