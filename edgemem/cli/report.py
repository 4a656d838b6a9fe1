"""What run and demo print and draw of a replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgemem.cli.output import say
from edgemem.cli.show import percent, print_table
from edgemem.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgemem.demo import DemoResult
    from edgemem.runtime.tools.replay import Report
    from edgemem.runtime.tools.stream import Stream


def print_demo(found: DemoResult) -> None:
    """The demo's table: what was gained, and whether returns were recognised."""
    keys = ("frozen", "statistics", "adapted", "first_visit", "on_return", "recognised")
    rows = [(name, *(percent(row[key]) for key in keys)) for name, row in found.contexts.items()]
    returns = found.returns
    total = (
        found.frozen_error, found.statistics_error, found.adapted_error,
        returns.first_visit, returns.on_return, returns.recognised,
    )  # fmt: skip
    print_table(
        f"error on {found.frames:,} frames; contexts drift and come back",
        ("context", "frozen", "statistics", "adapted", "1st visit*", "returns*", "known"),
        [*rows, ("all", *(percent(value) for value in total))],
    )
    statistics = found.statistics_returns
    say(
        "* adapted, first two batches of a visit "
        f"(statistics alone: {percent(statistics.first_visit)}, {percent(statistics.on_return)}).",
        "known: part of the frames of returns whose context was recognised.",
        f"{found.ms_per_frame:.3f} ms per frame, peak memory {found.peak_rss_mb:.0f} MB, "
        f"no torch. {found.picture_note}",
    )


def print_report(report: Report, name: str) -> None:
    """The tables of a replay."""
    rows = [
        (context, f"{row['frames']:,}", percent(row["frozen_error"]), percent(row["error"]))
        for context, row in report.per_context.items()
    ]
    rows.append(("all", f"{report.frames:,}", percent(report.frozen_error), percent(report.error)))
    print_table(name, ("context", "frames", "frozen error", "error"), rows)
    events = ", ".join(f"{kind} {count}" for kind, count in report.events.items()) or "none"
    returns = report.returns
    if returns is not None and returns.visits and returns.recognised is not None:
        say(
            f"{returns.visits} returns, {percent(returns.recognised)} recognised; error of the "
            f"first two batches: first visits {percent(returns.first_visit)}, "
            f"returns {percent(returns.on_return)}"
        )
    say(
        f"{report.ms_per_frame:.3f} ms per frame, peak memory {report.peak_rss_mb:.0f} MB, "
        f"{report.kilobytes_written:.0f} kB written per 1,000 frames",
        f"events: {events}",
    )
    if report.skipped_frames:
        say(f"skipped {report.skipped_frames} frames that hold NaN, infinite or too large values")
    say(*report.notes)


def check_plot(path: Path, stream: Stream) -> None:
    """Check that errors over this stream can be drawn.

    Raises:
        InputError: it has no labels, or the picture cannot be written.
    """
    from edgemem.plot import check_picture

    if stream.labels is None:
        raise InputError("--plot", "needs labels, the stream has none", "Add y to the stream")
    check_picture(path)


def draw_report(path: Path, report: Report, contexts: NDArray[np.str_] | None, name: str) -> None:
    """Draw the rolling error of a replay, and which contexts were in use."""
    from edgemem.plot import plot_errors

    assert report.wrong is not None and report.frozen_wrong is not None, "checked before"
    curves = {"frozen": report.frozen_wrong, "adapted": report.wrong}
    plot_errors(
        path,
        curves,
        contexts,
        title=name,
        used=report.used,
        drift=report.drift,
        rails=[(rail.frame, rail.kind) for rail in report.rails],
    )
