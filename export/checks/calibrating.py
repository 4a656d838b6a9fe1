"""The learning rate that does a network no harm, put into its bundle before it is in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgemem.bundle.manifest import HyperParameter, Manifest
from edgemem.export.choices import Choices, can_calibrate
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.data import to_float
from edgemem.models.tensor_rows import Frames, source_rows, split, to_array

if TYPE_CHECKING:
    from edgemem.runtime.tools.calibration import Calibration

RATE = "learning_rate"
MOST_FRAMES, LEAST_FRAMES = 256, 64  # of every shift, in each order of labels
MOST_OPERATIONS = 256e9  # multiplications and additions for them, as far as fewer frames help


def calibrated(
    folder: Path,
    manifest: Manifest,
    model: AdaptiveModel,
    choices: Choices,
    report: Callable[[str], None],
) -> Manifest:
    """The manifest of a written bundle, with what its source frames say.

    Whether the frozen model answers frames like these, and, unless the user chose one, the learning
    rate that they allow.

    It stays as it is where the model knows too few of them, and where outputs are not classes.
    Where their labels are not known, what the frozen model says of them stands for these: then a
    step is judged by what it changes for the worse of the frozen model's answers once frames are
    shifted.
    """
    if not can_calibrate(model, choices.batch):
        return manifest
    known = source_rows(model)
    assert known is not None
    frames = to_float(known)
    labels = model.source_labels
    if labels is None:
        with torch.no_grad():
            labels = torch.cat(
                [model.frozen_logits(x).argmax(1) for x in split(frames, choices.batch)]
            )
    from edgemem.bundle.opening import open_bundle
    from edgemem.runtime.tools.calibration import calibrate, compare_at_home
    from edgemem.runtime.tools.tuning import SourceFrames

    report("calibrating")
    source = SourceFrames(to_array(frames), labels.numpy().astype(np.int64))
    bundle = open_bundle(folder)
    home = compare_at_home(bundle, source)
    told = manifest.exported_from | {
        "source_accuracy": asdict(home),
        "labelled_source": model.source_labels is not None,
    }
    manifest = replace(manifest, familiar=home.frozen_answers, exported_from=told)
    chosen = choices.learning_rate is not None or RATE in (choices.hyper_parameters or {})
    if chosen or RATE not in manifest.hyper_parameters:
        return manifest
    found = calibrate(
        replace(bundle, manifest=manifest),
        source,
        frames=frames_for_trial(model, frames),
        note=lambda text: report(f"calibrating, {text}"),
    )
    return _with_rate(manifest, found)


def frames_for_trial(model: AdaptiveModel, frames: Frames) -> int:
    """Of every shift: fewer for a network with much to compute, the same number on every machine.

    What a trial finds must not depend on how busy the exporting machine is.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.frozen_logits(next(iter(split(frames, 1))))
    affordable = int(MOST_OPERATIONS / max(counter.get_total_flops(), 1))
    return min(MOST_FRAMES, max(LEAST_FRAMES, affordable))


def _with_rate(manifest: Manifest, found: Calibration) -> Manifest:
    parameters = dict(manifest.hyper_parameters)
    parameters[RATE] = HyperParameter(found.rate, parameters[RATE].frozen)
    told = manifest.exported_from | {"calibration": asdict(found)}
    return replace(manifest, hyper_parameters=parameters, exported_from=told)
