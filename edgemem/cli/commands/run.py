"""The command that runs a recorded stream through a bundle: run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgemem.cli.arguments import BundlePath, Json, Threads, UsedProvider
from edgemem.cli.report import check_plot, draw_report, print_report
from edgemem.cli.show import percent, print_json, progress
from edgemem.errors import InputError

if TYPE_CHECKING:
    from edgemem.runtime.options import Provider
    from edgemem.runtime.tools.stream import Stream

WHOLE = re.compile(r"-?[0-9]{1,18}")


def run(
    bundle: BundlePath,
    input: Annotated[
        Path,
        typer.Option(
            help="Stream: .npz with x, what the bundle takes beside it, optional y, context."
        ),
    ],
    state: Annotated[Path | None, typer.Option(help="State file; made if missing.")] = None,
    adapt: Annotated[bool, typer.Option("--adapt/--no-adapt", help="Adapt while running.")] = True,
    contexts: Annotated[
        bool, typer.Option("--contexts/--no-contexts", help="Keep a block for each context.")
    ] = True,
    keep_frames: Annotated[
        bool,
        typer.Option("--keep-frames/--no-keep-frames", help="Keep the last batch in the state."),
    ] = True,
    adapt_when: Annotated[
        str | None,
        typer.Option(
            help="A step on one batch in so many; drift; or 2s/min. Default: the bundle's."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="For graphs and activations, such as 128MB.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Frames per call; 0 = the bundle's batch.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Hyper-parameter, such as alpha=0.5.")
    ] = None,
    skip_bad_frames: Annotated[
        bool, typer.Option("--skip-bad-frames", help="Leave out frames with no usable values.")
    ] = False,
    threads: Threads = 0,
    provider: UsedProvider = "auto",
    plot: Annotated[Path | None, typer.Option(help="Save a picture of the rolling error.")] = None,
    json: Json = False,
) -> None:
    """Run a recorded stream through a bundle.

    Each frame is predicted before the update it takes part in. Ctrl-C and SIGTERM end it between
    two calls; what was learnt is written then, and the exit code is 130 or 143.

    Example: edgemem run camera.edgemem --input stream.npz --state camera.db
    """
    import edgemem
    from edgemem.runtime.tools.replay import replay
    from edgemem.stopping import stopping

    values = _hyper_parameters(set_ or [])
    # Before the state file is opened, so that frames of another kind leave it byte for byte.
    stream, batch = _fitting_stream(input, bundle, skip_bad_frames)
    if plot is not None:
        check_plot(plot, stream)
    with (
        stopping() as stop,
        edgemem.open(
            bundle,
            state,
            adapt=adapt,
            options=edgemem.Options(
                adapt_when=_adapt_when(adapt_when),
                contexts=contexts,
                keep_frames=keep_frames,
                memory_budget=memory_budget,
            ),
            hyper_parameters=values,
            threads=threads,
            provider=cast("Provider", provider),  # checked there
        ) as runtime,
        progress("frames") as bar,
    ):
        task = bar.add_task(bundle.name, total=stream.frames, note="")

        def note(frames: int, error: float | None) -> None:
            text = "" if error is None else f"error {percent(error)}"
            bar.update(task, completed=frames, note=text)
            stop.now()

        with stop.later():
            report = replay(runtime, stream, chunk=chunk or batch, progress=note)
    if plot is not None:
        draw_report(plot, report, stream.contexts, bundle.name)
    if json:
        print_json(report.as_dict())
    else:
        print_report(report, bundle.name)


def _fitting_stream(path: Path, bundle: Path, skip: bool) -> tuple[Stream, int]:
    """A stream of frames and labels that the bundle takes, and the bundle's batch.

    Raises InputError for what does not fit.
    """
    from edgemem.bundle.opening import open_bundle
    from edgemem.bundle.rows import frames_of, inputs_of
    from edgemem.runtime.frames import checked
    from edgemem.runtime.tools.replay import require_labels
    from edgemem.runtime.tools.stream import Stream

    recorded = Stream(path)
    manifest = open_bundle(bundle).manifest
    recorded.require_shape(manifest.frames)
    require_labels(recorded, manifest)
    stream = _usable(recorded, skip)
    first = next(stream.chunks(1))[1]
    checked(frames_of(first), manifest.frames, inputs_of(first))
    return stream, manifest.frames.batch


def _usable(stream: Stream, skip: bool) -> Stream:
    """The stream without frames that hold NaN, infinite or too large values.

    Raises InputError for them if they shall not be skipped.
    """
    bad = stream.bad_frames()
    if len(bad) and not skip:
        more = f", and so do {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(
            f"{stream.path}: frame {bad[0]}",
            f"holds NaN, infinite or too large values{more}",
            "Record it again, or pass --skip-bad-frames",
        )
    return stream.without(bad) if len(bad) else stream


def _hyper_parameters(settings: list[str]) -> dict[str, float]:
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = float(value)
        except ValueError as error:
            raise InputError(
                f"--set {setting}", "is not name=number", "Write it as --set alpha=0.5"
            ) from error
    return values


def _adapt_when(text: str | None) -> int | str | None:
    return int(text) if text is not None and WHOLE.fullmatch(text) else text
