"""Replay a recorded stream through a runtime and measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.errors import InputError
from edgemem.runtime.loop import Runtime
from edgemem.runtime.memory import peak_rss_mb
from edgemem.runtime.stream import Stream

Labels = NDArray[np.int64]
Wrong = NDArray[np.bool_]


@dataclass
class Report:
    """What a replay measured. Errors are fractions, None without labels.

    ms_per_frame: time in `step` alone, prediction and adaptation together. events: how often each
    kind happened. per_context: frames, error and frozen_error of each context. wrong: per frame,
    whether the prediction was, for plots; not in `as_dict`.
    """

    frames: int
    error: float | None
    frozen_error: float | None
    per_context: dict[str, dict[str, float | int | None]]
    ms_per_frame: float
    peak_rss_mb: float
    events: dict[str, int]
    wrong: Wrong | None = field(default=None, repr=False)
    frozen_wrong: Wrong | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        del values["wrong"], values["frozen_wrong"]
        return values


def replay(
    runtime: Runtime,
    stream: Stream,
    *,
    chunk: int,
    frozen: bool = True,
    progress: Callable[[int, float | None], None] = lambda frames, error: None,
) -> Report:
    """Run every frame of a stream through `step`.

    Args:
        chunk: frames per call.
        frozen: also predict each frame with the frozen model, to compare (outside the timing).
        progress: called after each chunk with frames done and the error so far.

    Raises:
        InputError: the stream does not fit the bundle.
    """
    if chunk < 1:
        raise InputError(f"{chunk} frames per call", "is not possible", "Use 1 or more")
    labels = stream.labels
    predicted = np.zeros(stream.frames, np.int64)
    frozen_predicted = np.zeros(stream.frames, np.int64) if frozen else None
    events: dict[str, int] = {}
    seconds, wrong = 0.0, 0
    for start, frames in stream.chunks(chunk):
        began = time.perf_counter()
        result = runtime.step(frames)
        seconds += time.perf_counter() - began
        span = slice(start, start + len(frames))
        predicted[span] = result.labels
        for event in result.events:
            events[event.kind] = events.get(event.kind, 0) + 1
        if frozen_predicted is not None:
            frozen_predicted[span] = runtime.predict(frames, frozen=True).labels
        if labels is not None:
            wrong += int((result.labels != labels[span]).sum())
        done = start + len(frames)
        progress(done, None if labels is None else wrong / done)
    return _report(stream, predicted, frozen_predicted, seconds, events)


def _report(
    stream: Stream,
    predicted: NDArray[np.int64],
    frozen_predicted: NDArray[np.int64] | None,
    seconds: float,
    events: dict[str, int],
) -> Report:
    labels = stream.labels
    wrong = _wrong(predicted, labels)
    frozen_wrong = _wrong(frozen_predicted, labels)
    contexts = stream.contexts
    names = [] if contexts is None else list(dict.fromkeys(contexts.tolist()))
    per_context: dict[str, dict[str, float | int | None]] = {}
    for name in names:
        chosen = contexts == name
        per_context[name] = {
            "frames": int(chosen.sum()),
            "error": _mean(wrong, chosen),
            "frozen_error": _mean(frozen_wrong, chosen),
        }
    return Report(
        frames=stream.frames,
        error=_mean(wrong),
        frozen_error=_mean(frozen_wrong),
        per_context=per_context,
        ms_per_frame=1000 * seconds / stream.frames,
        peak_rss_mb=round(peak_rss_mb(), 1),
        events=events,
        wrong=wrong,
        frozen_wrong=frozen_wrong,
    )


def _wrong(predicted: Labels | None, labels: Labels | None) -> Wrong | None:
    if predicted is None or labels is None:
        return None
    wrong: Wrong = predicted != labels
    return wrong


def _mean(wrong: Wrong | None, chosen: Any = slice(None)) -> float | None:
    return None if wrong is None else float(wrong[chosen].mean())
