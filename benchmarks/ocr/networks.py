"""The three networks of PP-OCRv4 in the package rapidocr-onnxruntime, and their frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ocr.rendering import Frames, lines, pages, turned_lines
from benchmarks.ocr.scoring import Floats, box_error, characters, class_error, read, text_error

FOLDER = Path("build/ocr/rapidocr_onnxruntime/models")
COUNT = 64  # frames of every shift
MEAN, DEVIATION = 0.5, 0.5  # of every channel, for all three


@dataclass(frozen=True)
class Network:
    """One file, what it is asked, and how its answers are judged.

    Attributes:
        frames: number, seed -> frames and what is right for them.
        error: answers [n, ...] and what is right -> a share.
        measure: what that is, for people.
        count: frames of every shift.
    """

    title: str
    file: str
    task: str
    frames: Callable[[int, int], tuple[Frames, Any]]
    error: Callable[[Floats, Any], float]
    measure: str
    count: int

    @property
    def path(self) -> Path:
        """Where `make bench-ocr` puts it."""
        return FOLDER / self.file

    @property
    def options(self) -> list[str]:
        """Of `edgemem export`, besides the source frames."""
        shape = ",".join(map(str, self.frames(1, 0)[0].shape[1:]))
        three = "{0},{0},{0}".format
        found = ["--task", self.task, "--input-shape", shape]
        found += ["--mean", three(MEAN), "--std", three(DEVIATION), "--norm-affine"]
        return [*found, "--objective", "likelihood_ratio"]


def networks() -> dict[str, Network]:
    """By name. The recogniser's dictionary is in its file."""
    recogniser = "ch_PP-OCRv4_rec_infer.onnx"
    known = characters(FOLDER / recogniser)
    return {
        "recogniser": Network(
            "Recogniser",
            recogniser,
            "sequence",
            lines,
            partial(_text_error, known),
            "characters",
            COUNT,
        ),
        "detector": Network(
            "Detector", "ch_PP-OCRv4_det_infer.onnx", "dense", pages, box_error, "boxes", COUNT
        ),
        "classifier": Network(
            "Classifier of direction",
            "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "classes",
            turned_lines,
            class_error,
            "directions",
            COUNT,
        ),
    }


def given_answers(path: Path, frames: Frames, batch: int, threads: int) -> Floats:
    """What onnxruntime says with the file as it was given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = (frames.astype(np.float32) / 255 - MEAN) / np.float32(DEVIATION)
    parts = [x[start : start + batch].astype(np.float32) for start in range(0, len(x), batch)]
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def _text_error(known: list[str], answers: Floats, right: list[str]) -> float:
    return text_error(read(answers, known), right)
