"""Replay a recorded stream through a runtime and measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bundle.manifest import Manifest
from edgemem.bundle.rows import frames_of, inputs_of
from edgemem.errors import InputError
from edgemem.runtime.engines.process_memory import peak_rss_mb
from edgemem.runtime.loop import Runtime
from edgemem.runtime.result import GUARD_RAILS, Result
from edgemem.runtime.tools.stream import Stream
from edgemem.runtime.tools.visits import Returns, Visit, returns_of, visits_of

Labels = NDArray[np.int64]
Wrong = NDArray[np.bool_]


@dataclass(frozen=True)
class Rail:
    """A guard rail that fired. frame: the first of the call. kind, message: as of the event."""

    frame: int
    kind: str
    message: str


@dataclass
class Report:
    """What a replay measured. Errors are fractions, None without labels.

    Per frame, for plots, not in `as_dict`: wrong and frozen_wrong, whether the prediction was;
    used, the name of the context whose block predicted it; drift, as in `Result`.

    Attributes:
        ms_per_frame: time in `step` alone, prediction and adaptation together.
        events: how often each kind happened.
        rails: guard rails, in order.
        notes: what is to be said of the stream.
        skipped_frames: left out of it.
        per_context: frames, error and frozen_error of each context.
        visits: every stay in a context of the stream.
        returns: first visits beside later ones.
        kilobytes_written: to the state file, per 1,000 frames.
    """

    frames: int
    error: float | None
    frozen_error: float | None
    per_context: dict[str, dict[str, float | int | None]]
    ms_per_frame: float
    peak_rss_mb: float
    events: dict[str, int]
    visits: list[Visit] = field(default_factory=list)
    returns: Returns | None = None
    kilobytes_written: float = 0.0
    rails: list[Rail] = field(default_factory=list)
    skipped_frames: int = 0
    notes: list[str] = field(default_factory=list)
    wrong: Wrong | None = field(default=None, repr=False)
    frozen_wrong: Wrong | None = field(default=None, repr=False)
    used: NDArray[np.str_] | None = field(default=None, repr=False)
    drift: NDArray[np.float32] | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        for name in ("wrong", "frozen_wrong", "used", "drift"):
            del values[name]
        return values


class _Record:
    """What is noted of every frame of a stream."""

    def __init__(self, frames: int, frozen: bool) -> None:
        self.predicted = np.zeros(frames, np.int64)
        self.frozen = np.zeros(frames, np.int64) if frozen else None
        self.used = np.zeros(frames, "U16")
        self.drift = np.full(frames, np.nan, np.float32)
        self.events: dict[str, int] = {}
        self.rails: list[Rail] = []
        self.notes: list[str] = []
        self.seconds = 0.0

    def take(self, span: slice, result: Result) -> None:
        """Note what a step returned for the frames of a span."""
        self.used[span] = result.context
        if len(result.labels):
            self.predicted[span] = result.labels
        self.drift[span] = np.nan if result.drift is None else result.drift
        for event in result.events:
            self.events[event.kind] = self.events.get(event.kind, 0) + 1
            if event.kind in GUARD_RAILS:
                self.rails.append(Rail(span.start, event.kind, event.message))
            if event.kind == "range":
                self.notes.append(event.message)


def require_labels(stream: Stream, manifest: Manifest) -> None:
    """Check that the labels of a stream, if there are any, are classes of the bundle.

    Raises InputError.
    """
    if manifest.task is None:
        stream.require_labels(manifest.classes)
    elif stream.labels is not None:
        raise InputError(
            f"{stream.path}: y",
            f"are labels of classes, and the bundle's task is {manifest.task.kind}",
            "Leave y out",
        )


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
        runtime: an opened one; it goes on from where it is.
        stream: the frames.
        chunk: frames per call.
        frozen: also predict each frame with the frozen model, to compare (outside the timing).
        progress: called after each chunk with frames done and the error so far.

    Raises:
        InputError: the stream or its labels do not fit the bundle.
    """
    if chunk < 1:
        raise InputError(f"{chunk} frames per call", "is not possible", "Use 1 or more")
    stream.require_shape(runtime.bundle.manifest.frames)
    require_labels(stream, runtime.bundle.manifest)
    labels, record, wrong = stream.labels, _Record(stream.frames, frozen), 0
    before = runtime.bytes_written
    for start, frames in stream.chunks(chunk):
        began = time.perf_counter()
        x, inputs = frames_of(frames), inputs_of(frames)
        result = runtime.step(x, inputs=inputs)
        record.seconds += time.perf_counter() - began
        done = start + len(frames)
        record.take(slice(start, done), result)
        if record.frozen is not None and labels is not None:
            record.frozen[start:done] = runtime.predict(x, inputs=inputs, frozen=True).labels
        if labels is not None:
            wrong += int((result.labels != labels[start:done]).sum())
        progress(done, None if labels is None else wrong / done)
    runtime.flush()
    report = _report(stream, record, 2 * runtime.bundle.manifest.frames.batch)
    report.kilobytes_written = (runtime.bytes_written - before) / stream.frames
    return report


def _report(stream: Stream, record: _Record, first: int) -> Report:
    wrong = _wrong(record.predicted, stream.labels)
    frozen_wrong = _wrong(record.frozen, stream.labels)
    told_apart = bool(np.isfinite(record.drift).any())
    used = record.used if told_apart else None
    visits: list[Visit] = []
    if stream.contexts is not None:
        visits = visits_of(stream.contexts, used, wrong, frozen_wrong, first)
    return Report(
        frames=stream.frames,
        error=_mean(wrong),
        frozen_error=_mean(frozen_wrong),
        per_context=_per_context(stream.contexts, wrong, frozen_wrong),
        ms_per_frame=1000 * record.seconds / stream.frames,
        peak_rss_mb=round(peak_rss_mb(), 1),
        events=record.events,
        rails=record.rails,
        skipped_frames=stream.skipped,
        notes=record.notes,
        visits=visits,
        returns=returns_of(visits) if visits else None,
        wrong=wrong,
        frozen_wrong=frozen_wrong,
        used=used,
        drift=record.drift if told_apart else None,
    )


def _per_context(
    contexts: NDArray[np.str_] | None, wrong: Wrong | None, frozen_wrong: Wrong | None
) -> dict[str, dict[str, float | int | None]]:
    found: dict[str, dict[str, float | int | None]] = {}
    for name in [] if contexts is None else dict.fromkeys(contexts.tolist()):
        chosen = contexts == name
        found[name] = {
            "frames": int(chosen.sum()),
            "error": _mean(wrong, chosen),
            "frozen_error": _mean(frozen_wrong, chosen),
        }
    return found


def _wrong(predicted: Labels | None, labels: Labels | None) -> Wrong | None:
    if predicted is None or labels is None:
        return None
    wrong: Wrong = predicted != labels
    return wrong


def _mean(wrong: Wrong | None, chosen: Any = slice(None)) -> float | None:
    return None if wrong is None else float(wrong[chosen].mean())
