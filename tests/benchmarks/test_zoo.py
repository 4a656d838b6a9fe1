"""The matrix of architectures: its frames, its judgement, what it keeps, and its page."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.zoo.architectures import ARCHITECTURES, label_of
from benchmarks.zoo.calibrated import DEVIATION, answers, calibrate
from benchmarks.zoo.frames import drifting, source_frames
from benchmarks.zoo.kept import PACKAGES, keep, kept, row_path
from benchmarks.zoo.page import page
from benchmarks.zoo.verdict import BEYOND, REFUSED, RIGHT, TRACED, WRONG, verdict

GOOD = {
    "stage": "done", "frozen_off": 2e-6, "device": "ok", "norms": 3, "sites": 2,
    "alpha": 0.8, "bytes": 2_000_000,
    "times_checkpoint": 1.5, "align_s": 3.0, "export_s": 30.0, "frame": (3, 64, 64),
    "ms": {"frozen": 10.0, "aligned": 12.0, "step": 35.0}, "date": "2026-11-30",
    "made_with": {"code": "abc", **dict.fromkeys(PACKAGES, "1.0")},
    "stream": {"finite": True, "block_moved": 0.1, "answers_moved": 0.2, "restored_off": 0.0},
}  # fmt: skip
TOLD = {"thing": "model", "reason": "has no norm | at all", "remedy": "Name parts"}


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1600), (128, 6), (64,), (3, 4, 8, 8)])
def test_frames_have_something_to_see_and_come_again(shape):
    frames = source_frames(shape, 64)
    assert frames.shape == (64, *shape) and frames.dtype == np.float32
    assert frames.min() >= 0 and frames.max() <= 1
    assert frames.std(0).mean() > 0.05, "frames differ"
    np.testing.assert_array_equal(frames, source_frames(shape, 64))
    assert not np.array_equal(frames, source_frames(shape, 64, seed=1))


def test_the_stream_drifts_further_and_further():
    source = source_frames((3, 16, 16), 64)
    means = [float(batch.mean()) for batch in drifting((3, 16, 16), 6, 32)]
    assert abs(means[0] - source.mean()) < 0.1
    assert means[-1] - source.mean() > 0.15


@pytest.mark.parametrize("zero", [False, True])
def test_calibration_measures_what_batch_norms_see_and_scales_the_logits(zero):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip
    if zero:  # as some networks begin their training
        nn.init.zeros_(model[-1].weight)
    frames = torch.from_numpy(source_frames((3, 16, 16), 64))
    calibrate(model, frames)
    seen = model[0](frames)
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not model[1].training and not model.training
    assert float(answers(model, frames).std(0).mean()) == pytest.approx(DEVIATION, rel=1e-3)


def altered(**changes):
    found = copy.deepcopy(GOOD)
    for name, value in changes.items():
        found["stream" if name in GOOD["stream"] else name] = (
            found["stream"] | {name: value} if name in GOOD["stream"] else value
        )
    return found


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (GOOD, RIGHT),
        (altered(frozen_off=2e-4), WRONG),
        (altered(frozen_off=float("nan")), WRONG),
        (altered(finite=False), WRONG),
        (altered(block_moved=0.0), WRONG),
        (altered(answers_moved=0.0), WRONG),
        (altered(answers_moved=float("nan")), WRONG),
        (altered(answers_moved=0.0) | {"alpha": 0.0}, RIGHT),
        (GOOD | {"alpha": 0.0}, WRONG),
        (altered(restored_off=0.1), WRONG),
        (altered(device="bundle: damaged. Copy it again."), WRONG),
        ({"stage": TRACED}, TRACED),
        ({"stage": "align", "refused": TOLD}, REFUSED),
        ({"stage": "align", "refused": TOLD | {"remedy": "Report the model"}}, WRONG),
        ({"stage": "export", "refused": TOLD | {"thing": "parity check"}}, WRONG),
        ({"stage": "export", "raised": "ValueError: no"}, WRONG),
        ({"stage": "export", "beyond": "600 seconds"}, BEYOND),
    ],
)
def test_only_what_holds_in_every_respect_is_right(found, word):
    judged = verdict(found)
    assert judged.word == word and bool(judged.reason) == (word not in (RIGHT, TRACED))


def test_rows_are_kept_by_what_they_were_made_with(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.zoo.kept.made_with", lambda: {"code": "abc"})
    assert kept(tmp_path, "timm/a b") is None
    keep(tmp_path, "timm/a b", {"stage": "done"})
    assert kept(tmp_path, "timm/a b") == {"stage": "done", "made_with": {"code": "abc"}}


def test_every_architecture_has_a_label_and_a_file_of_its_own(tmp_path):
    labels = [label_of(found) for found in ARCHITECTURES]
    assert len(labels) == len({row_path(tmp_path, label) for label in labels}) >= 50
    assert {found.task for found in ARCHITECTURES} > {"auto", "classes", "dense", "sequence"}


def test_the_page_counts_and_says_why():
    refused = {"stage": "align", "refused": TOLD, "frame": (64,), "date": "2026-12-01",
               "made_with": GOOD["made_with"]}  # fmt: skip
    rows = {"timm/one": GOOD, "torch/two": refused}
    verdicts = {label: verdict(row) for label, row in rows.items()}
    tools = ("edgemem", "numpy", "onnxruntime", "torch", "onnx", "python")
    about = {"seconds": 600, "date": "2026-12-01", "machine": "arm", "cores": 2}
    about |= dict.fromkeys(tools, "1.0")
    text = page(rows, verdicts, about, listed=5)
    assert (
        "Of 2 architectures 1 are right**; 1 refused. 3 more are listed and have not run yet."
        in text
    )
    line = "| one | timm | 3 × 64 × 64 | right | 3 | 2 | 1.2 | 3.5 | 2.0 | 1.5 | 2e-06 | 33 s |"
    assert line in text.splitlines()
    assert "| two | model: has no norm \\| at all | Name parts |" in text.splitlines()
    assert "Wrong: what went wrong" not in text
