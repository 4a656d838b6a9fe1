"""Commands that run on a device: inspect, verify and demo here, run and doctor beside them."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemem.cli.arguments import BundlePath, Json, Threads, UsedProvider
from edgemem.cli.commands.doctor import doctor
from edgemem.cli.commands.run import run
from edgemem.cli.report import print_demo
from edgemem.cli.show import Stages, percent, print_files, print_json, print_table, progress

if TYPE_CHECKING:
    from edgemem.bundle.frame_spec import FrameSpec
    from edgemem.bundle.manifest import Manifest


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (run, inspect, verify, doctor, demo):
        app.command()(command)


def inspect(bundle: BundlePath, json: Json = False) -> None:
    """Show what a bundle holds, after checking every file; of a bank's levels, the headers.

    Of bundles of text and banks of memories, too.

    Example: edgemem inspect camera.edgemem
    """
    from edgemem.bundle.manifest_file import to_json
    from edgemem.bundle.opening import kind_of, open_bundle
    from edgemem.bundle.sealed_document import FRAMES

    if (kind := kind_of(bundle)) != FRAMES:
        from edgemem.cli.language_commands.inspect_text import print_text

        print_text(bundle, kind, json=json)
        return
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
            *(("frames", f"{list(shape)} {_values(frames)}") for shape in frames.shapes),
            *((f"input {i.name}", f"{list(i.shape)} {i.dtype}") for i in frames.inputs),
            ("adaptation step", f"{frames.batch} frames"),
            *_outputs(manifest),
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
    print_files(manifest.files)


def _values(frames: FrameSpec) -> str:
    if frames.ids is None:
        return "uint8 or float32"
    return f"int64, token ids from {frames.ids[0]} to {frames.ids[1]}"


def _outputs(manifest: Manifest) -> list[tuple[str, str]]:
    """What the outputs are."""
    task = manifest.task
    if task is None:
        room = "" if manifest.teaching is None else f", room for {manifest.classes}"
        return [("classes", str(len(manifest.labels)) + room)]
    rows = [("task", task.kind)]
    rows += [(f"output {output.name}", output.sizes) for output in task.outputs]
    limit = f"up to {task.limit:.1f} source deviations from the frozen model's"
    return [*rows, ("outputs may go", limit if task.deviation else "anywhere: no source frames")]


def verify(
    bundle: BundlePath, threads: Threads = 0, provider: UsedProvider = "auto", json: Json = False
) -> None:
    """Check every file, and that this device computes what torch computed.

    Runs the frozen model, one adaptation step and the adapted model on reference frames; of a
    bundle of text the model with and without the generic block. Levels of a bank are hashed.

    Example: edgemem verify camera.edgemem
    """
    from edgemem.bundle.opening import check_levels, kind_of, open_bundle
    from edgemem.bundle.sealed_document import FRAMES
    from edgemem.runtime.tools.verification import verify as check

    if (kind := kind_of(bundle)) != FRAMES:
        from edgemem.cli.language_commands.verify_text import print_verified

        print_verified(bundle, kind, threads, json=json)
        return
    found = check(bundle, threads, provider)
    if (opened := open_bundle(bundle)).bank is not None:
        with progress("bytes") as bar:
            check_levels(opened, Stages(bar))
    if json:
        print_json(found.as_dict())
        return
    rows = [
        ("frozen model", f"{found.frozen:.1e}", f"{found.limits['frozen']:.0e}"),
        ("adaptation step", f"{found.adapt:.1e}", f"{found.limits['adapt']:.0e}"),
        ("after the step", f"{found.adapted:.1e}", f"{found.limits['adapted']:.0e}"),
    ]
    print_table(
        f"{bundle.name}: {found.files} files as written; {found.engine} against torch",
        ("graph", "difference", "limit"),
        rows,
    )


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
