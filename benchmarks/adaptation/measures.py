"""What a run is judged by. Errors are fractions of wrong predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptation.streams import Stream

WINDOW = 500  # frames of the worst window
FIRST = 2  # batches after a change of context
LEAST_VISITS = 10  # of a trend
BATCH = 64  # frames of such a batch, however many a method gets at a time

Wrong = NDArray[np.bool_]


def measures(wrong: Wrong, stream: Stream) -> dict[str, Any]:
    """Figures of one run over one stream.

    error: mean over contexts (so that their sizes do not matter). by_context, by_visit. worst:
    largest error of 500 frames in a row. first: of the first 128 frames after a change of context.
    forgetting: mean over contexts of last visit - best earlier visit (Chaudhry et al., ECCV 2018,
    eq. 3, for errors). backward_transfer: mean over contexts of first visit - last visit, so that
    gains are positive (Lopez-Paz & Ranzato, NeurIPS 2017, section 3, visits as evaluations). trend,
    trend_error: see `trend`.
    """
    table = by_visit_and_context(wrong, stream)
    by_context = np.nanmean(table, 0)
    found = {
        "error": float(np.nanmean(by_context)),
        "by_context": dict(zip(stream.contexts, by_context.tolist(), strict=True)),
        "by_visit": np.nanmean(table, 1).tolist(),
        "worst": worst_window(wrong),
        "first": first_after_change(wrong, stream),
        "forgetting": None,
        "backward_transfer": None,
    }
    found["trend"], found["trend_error"] = trend(table, len(wrong))
    if len(table) > 1:
        found["forgetting"] = float(np.nanmean(table[-1] - np.nanmin(table[:-1], 0)))
        found["backward_transfer"] = float(np.nanmean(table[0] - table[-1]))
    return found


def by_visit_and_context(wrong: Wrong, stream: Stream) -> NDArray[np.float64]:
    """Errors [visits, contexts]; NaN where a context was not visited."""
    shape = int(stream.visit.max()) + 1, len(stream.contexts)
    cell = stream.visit * shape[1] + stream.context
    frames = np.bincount(cell, minlength=shape[0] * shape[1])
    errors = np.bincount(cell, wrong, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        return (errors / frames).reshape(shape)


def worst_window(wrong: Wrong) -> float:
    """Largest error of WINDOW frames in a row."""
    size = min(WINDOW, len(wrong))
    sums = np.concatenate([[0], np.cumsum(wrong)])
    return float((sums[size:] - sums[:-size]).max() / size)


def first_after_change(wrong: Wrong, stream: Stream) -> float | None:
    """Error of the first frames after each change of context; None where there is no order."""
    changes = np.flatnonzero(np.diff(stream.context)) + 1
    if len(changes) == 0 or len(changes) > len(wrong) / (FIRST * BATCH):
        return None
    return float(np.concatenate([wrong[c : c + FIRST * BATCH] for c in changes]).mean())


def trend(table: NDArray[np.float64], frames: int) -> tuple[float | None, float | None]:
    """Slope of the error over visits, by least squares, per 10,000 frames; and its standard error.

    table: errors [visits, contexts]. The first visit, in which a method gets to know the contexts,
    does not count; None for fewer than ten others.
    """
    errors = np.nanmean(table, 1)[1:]
    if len(errors) < LEAST_VISITS:
        return None, None
    times = np.arange(len(errors)) * frames / len(table) / 1e4
    (slope, _), covariance = np.polyfit(times, errors, 1, cov=True)
    return float(slope), float(covariance[0, 0] ** 0.5)


def known(names: Sequence[str | None], stream: Stream) -> float | None:
    """Part of all batches of a return that got a name which their context had before.

    names: of every batch, as the method takes it; None where it does not tell contexts apart.
    """
    first = slice(0, len(stream), stream.batch)
    batches = list(zip(stream.visit[first], stream.context[first], names, strict=True))
    if any(name is None for name in names) or not stream.visit.any():
        return None
    before: dict[int, set[tuple[int, str | None]]] = {}
    for visit, context, name in batches:
        before.setdefault(int(context), set()).add((int(visit), name))
    hits = [
        any(earlier < visit and name == other for earlier, other in before[int(context)])
        for visit, context, name in batches
        if visit
    ]
    return float(np.mean(hits))
