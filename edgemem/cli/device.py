"""Commands that run on a device: run, inspect, verify, doctor, demo."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgemem.cli.report import check_plot, draw_report, print_demo, print_report
from edgemem.cli.show import Stages, percent, print_json, print_table, progress
from edgemem.errors import InputError
from edgemem.version import VERSION

if TYPE_CHECKING:
    from edgemem.manifest import Manifest
    from edgemem.runtime.options import Provider
    from edgemem.runtime.stream import Stream

BundlePath = Annotated[Path, typer.Argument(help="Folder written by edgemem export.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine; 0 = all cores.")]
UsedProvider = Annotated[
    str, typer.Option(help="auto, cpu, xnnpack, cuda, coreml, nnapi, qnn or litert.")
]
PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-qnn", "ai-edge-litert", "tflite-runtime", "safetensors",
    "matplotlib", "torch", "onnx", "onnxscript", "litert-torch",
)  # fmt: skip

WHOLE = re.compile(r"-?[0-9]{1,18}")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (run, inspect, verify, doctor, demo):
        app.command()(command)


def run(
    bundle: BundlePath,
    input: Annotated[Path, typer.Option(help="Stream: .npz with x, optional y and context.")],
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
    from edgemem.bundle import open_bundle
    from edgemem.runtime.frames import checked
    from edgemem.runtime.replay import replay
    from edgemem.runtime.stream import Stream
    from edgemem.stopping import stopping

    values, recorded = _hyper_parameters(set_ or []), Stream(input)
    # Before the state file is opened, so that frames of another kind leave it byte for byte.
    manifest = open_bundle(bundle).manifest
    recorded.require_shape(manifest.frames)
    recorded.require_labels(manifest.classes)
    stream = _usable(recorded, skip_bad_frames)
    checked(next(stream.chunks(1))[1], manifest.frames)
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
            frames = chunk or manifest.frames.batch
            report = replay(runtime, stream, chunk=frames, progress=note)
    if plot is not None:
        draw_report(plot, report, stream.contexts, bundle.name)
    if json:
        print_json(report.as_dict())
    else:
        print_report(report, bundle.name)


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


def inspect(bundle: BundlePath, json: Json = False) -> None:
    """Show what a bundle holds, after checking every file; of a bank's levels, the headers.

    Example: edgemem inspect camera.edgemem
    """
    from edgemem.bundle import open_bundle
    from edgemem.manifest_file import to_json

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if json:
        print_json(loads(to_json(manifest)))
        return
    origin = manifest.exported_from
    frames = manifest.frames
    print_table(
        manifest.name,
        ("what", "value"),
        [
            ("frames", f"{list(frames.shape)} uint8 or float32"),
            ("adaptation step", f"{frames.batch} frames"),
            ("classes", str(len(manifest.labels)) + _room(manifest)),
            ("block", f"{len(manifest.block.arrays)} arrays, {manifest.block.nbytes:,} bytes"),
            ("context key", f"{manifest.key} numbers"),
            *((k, str(origin[k])) for k in ("checkpoint", "model", "warm") if k in origin),
            *((k, str(origin[k])) for k in ("gradient", "objective", "optimizer") if k in origin),
            ("parts", ", ".join(origin.get("parts", [])) or "–"),
        ],
    )
    hyper = manifest.hyper_parameters.items()
    plans = [(p.name, f"{p.bytes / 1e6:.0f}", f"{p.milliseconds:.1f}") for p in manifest.plans]
    print_table("plans of the step, measured at export", ("plan", "MB", "ms"), plans)
    print_table("hyper-parameters", ("name", "default"), [(k, f"{v.default:g}") for k, v in hyper])
    files = manifest.files.items()
    rows = [(name, f"{record.size:,}", record.sha256[:12]) for name, record in files]
    print_table("files", ("name", "bytes", "sha256"), rows)


def _room(manifest: Manifest) -> str:
    return "" if manifest.teaching is None else f", room for {manifest.classes}"


def verify(
    bundle: BundlePath, threads: Threads = 0, provider: UsedProvider = "auto", json: Json = False
) -> None:
    """Check every file, and that this device computes what torch computed.

    Runs the frozen model, one adaptation step and the adapted model on reference frames.

    Example: edgemem verify camera.edgemem
    """
    from edgemem.bundle import check_levels, open_bundle
    from edgemem.runtime.verify import verify as check

    found = check(bundle, threads, provider)
    if (opened := open_bundle(bundle)).bank is not None:
        with progress("bytes") as bar:
            check_levels(opened, Stages(bar))
    if json:
        print_json(found.as_dict())
        return
    rows = [
        ("frozen model", f"{found.frozen:.1e}", f"{found.limit:.0e}"),
        ("adaptation step", f"{found.adapt:.1e}", f"{found.limit:.0e}"),
        ("after the step", f"{found.adapted:.1e}", f"{found.limit:.0e}"),
    ]
    print_table(
        f"{bundle.name}: {found.files} files as written; {found.engine} against torch",
        ("graph", "difference", "limit"),
        rows,
    )


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle: say what can run it, too.")] = None,
    json: Json = False,
) -> None:
    """Show versions, engines, and what this machine can do, with a bundle or without.

    Example: edgemem doctor camera.edgemem
    """
    from edgemem.runtime.backends.providers import PROVIDERS, is_emulated, missing

    versions = {name: _version(name) for name in PACKAGES}
    engines = {name: missing(provider) for name, provider in PROVIDERS.items()}
    emulated = {name for name, provider in PROVIDERS.items() if is_emulated(provider)}
    able = {
        "run bundles": not all(engines.values()),
        "draw plots": versions["matplotlib"] is not None,
        "warm up": versions["torch"] is not None,
        "export": None not in (versions["torch"], versions["onnx"], versions["onnxscript"]),
        "export for LiteRT": versions["litert-torch"] is not None,
    }
    runs = None if bundle is None else _runs(bundle)
    if json:
        print_json(
            {
                "edgemem": VERSION,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "packages": versions,
                "engines": {name: reason or "here" for name, reason in engines.items()},
                "able": able,
                **({} if runs is None else {"bundle": runs}),
            }
        )
        return
    extras = {
        "run bundles": "litert", "draw plots": "plot", "warm up": "train", "export": "export",
        "export for LiteRT": "export-litert",
    }  # fmt: skip
    print_table(
        f"edgemem {VERSION}, Python {platform.python_version()}, {platform.machine()}",
        ("package", "version"),
        [(name, version or "not installed") for name, version in versions.items()],
    )
    print_table(
        "engines, by what provider= takes",
        ("provider", ""),
        [
            (
                name,
                f"needs {PROVIDERS[name].needs}"
                if reason is not None
                else "here, emulated"
                if name in emulated
                else "here",
            )
            for name, reason in engines.items()
        ],
    )
    print_table(
        "this machine can",
        ("what", ""),
        [
            (what, "yes" if yes else f"pip install 'edgemem[{extras[what]}]'")
            for what, yes in able.items()
        ],
    )
    if runs is not None:
        assert bundle is not None
        print_table(f"{bundle.name} here", ("provider", ""), list(runs.items()))


def _runs(path: Path) -> dict[str, str]:
    """Of every provider, whether it runs the bundle here; and the one that would be picked."""
    from edgemem.bundle import open_bundle
    from edgemem.runtime.backends.choice import choose, usable
    from edgemem.runtime.backends.providers import PROVIDERS

    opened = open_bundle(path)
    step = "adapt" if "adapt" in opened.manifest.graphs else ""
    found = {
        name: usable(opened, provider, adapt=bool(step)) or "yes"
        for name, provider in PROVIDERS.items()
    }
    try:
        picked = choose(opened, step=step)
    except InputError as error:
        return found | {"auto": error.remedy}
    failed = {name: f"fails: {picked.passed_over[name]}" for name in picked.failed}
    return found | failed | {"auto": f"{picked.provider} ({picked.backend.name})"}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("results"),
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Watch a small model get better on a drifting stream of handwritten digits.

    Example: edgemem demo
    """
    from edgemem.demo import run_demo

    with progress("frames") as bar:
        task = bar.add_task("digits", total=None, note="")

        def note(stage: str, done: int, total: int, error: float | None) -> None:
            text = "" if error is None else f"error {percent(error)}"
            bar.update(task, description=stage, completed=done, total=total, note=text)

        found = run_demo(out, threads, note)
    if json:
        print_json(found.as_dict())
        return
    print_demo(found)


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


def _version(package: str) -> str | None:
    if package in sys.modules:
        return str(getattr(sys.modules[package], "__version__", "?"))
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
