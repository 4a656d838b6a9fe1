"""The demo: a packaged bundle and stream of handwritten digits, replayed on this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemem.files.atomic import explain_write_errors

if TYPE_CHECKING:
    from edgemem.runtime.tools.replay import Report
    from edgemem.runtime.tools.stream import Stream
    from edgemem.runtime.tools.visits import Returns

HERE = Path(__file__).parent
BUNDLE = HERE / "digits.edgemem"
STREAM = HERE / "digits-stream.npz"
PICTURE = "demo.png"
Note = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured. Errors are fractions.

    Attributes:
        contexts: per context, the errors of the frozen model, of batch statistics alone (zero
            block) and of the adapted model; of the adapted model also the mean error of the first
            two batches of the first visit and of later visits, and the part of later visits that
            was recognised.
        returns: the same over all contexts.
        statistics_returns: with batch statistics alone.
        ms_per_frame: prediction and adaptation.
        plot: the picture's path, or None where matplotlib is missing.
    """

    frames: int
    frozen_error: float
    statistics_error: float
    adapted_error: float
    contexts: dict[str, dict[str, float | None]]
    returns: Returns
    statistics_returns: Returns
    ms_per_frame: float
    peak_rss_mb: float
    plot: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def picture_note(self) -> str:
        """One sentence about the picture."""
        return f"Picture: {self.plot}" if self.plot else "No picture: pip install 'edgemem[plot]'"


def run_demo(out: Path, threads: int, note: Note) -> DemoResult:
    """Replay the packaged stream twice (statistics only, adapting) and draw the errors.

    Raises:
        InputError: `out` cannot be written.
        BundleError: the packaged bundle was altered.
    """
    import edgemem
    from edgemem.runtime.tools.replay import replay
    from edgemem.runtime.tools.stream import Stream

    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    stream, reports = Stream(STREAM), {}
    for stage in ("batch statistics", "adapting"):
        adapts = stage == "adapting"

        def show(done: int, error: float | None, stage: str = stage) -> None:
            note(stage, done, stream.frames, error)

        with edgemem.open(BUNDLE, adapt=adapts, threads=threads) as runtime:
            if not adapts:
                runtime.rollback("zero")
            batch = runtime.bundle.manifest.frames.batch
            reports[stage] = replay(runtime, stream, chunk=batch, progress=show, frozen=adapts)
    return _result(stream, reports["batch statistics"], reports["adapting"], out)


def _result(stream: Stream, statistics: Report, adapted: Report, out: Path) -> DemoResult:
    from edgemem.runtime.tools.visits import returns_of

    contexts: dict[str, dict[str, float | None]] = {}
    for name, row in adapted.per_context.items():
        returns = returns_of([visit for visit in adapted.visits if visit.context == name])
        contexts[name] = {
            "frozen": row["frozen_error"],
            "statistics": statistics.per_context[name]["error"],
            "adapted": row["error"],
            "first_visit": returns.first_visit,
            "on_return": returns.on_return,
            "recognised": returns.recognised,
        }
    assert adapted.returns is not None and statistics.returns is not None, "contexts are named"
    return DemoResult(
        frames=adapted.frames,
        frozen_error=_number(adapted.frozen_error),
        statistics_error=_number(statistics.error),
        adapted_error=_number(adapted.error),
        contexts=contexts,
        returns=adapted.returns,
        statistics_returns=statistics.returns,
        ms_per_frame=adapted.ms_per_frame,
        peak_rss_mb=adapted.peak_rss_mb,
        plot=_draw(stream, statistics, adapted, out / PICTURE),
    )


def _draw(stream: Stream, statistics: Report, adapted: Report, path: Path) -> str | None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return None
    from edgemem.plot import plot_errors

    assert adapted.frozen_wrong is not None, "the frozen model ran too"
    assert statistics.wrong is not None and adapted.wrong is not None, "the stream has labels"
    curves = {
        "frozen": adapted.frozen_wrong,
        "statistics only": statistics.wrong,
        "adapted": adapted.wrong,
    }
    title = "Handwritten digits in changing conditions"
    plot_errors(
        path,
        curves,
        stream.contexts,
        title=title,
        window=100,
        used=adapted.used,
        drift=adapted.drift,
    )
    return str(path)


def _number(value: float | None) -> float:
    assert value is not None, "the packaged stream has labels"
    return float(value)
