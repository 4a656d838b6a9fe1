"""The command that chooses hyper-parameters: tune."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemem.cli.output import say
from edgemem.cli.show import percent, print_json, print_table, progress

if TYPE_CHECKING:
    from edgemem.bundle.opening import Bundle
    from edgemem.runtime.tools.tuning import Tuned


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(tune)


def tune(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Folder written by edgemem export.")
    ],
    source: Annotated[Path, typer.Option(help="Labelled source frames: .npz with x and y.")],
    out: Annotated[Path, typer.Option(help="Bundle to write; the old one stays as it is.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames of every shift.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and shifts.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 = all cores.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose learning rate, margin, regularisation, alpha and how often a step runs.

    By labelled source frames with synthetic shifts alone: nothing of the places where the device
    will work. A change is kept only if fresh draws confirm it. The new bundle has an identity of
    its own: state files of the old one do not go on with it.

    Example: edgemem tune camera.edgemem --source source.npz --out tuned.edgemem
    """
    from edgemem.bundle.copying import check_beside
    from edgemem.bundle.opening import open_bundle
    from edgemem.runtime.tools.tuning import SourceFrames, trials_needed
    from edgemem.runtime.tools.tuning import tune as run

    opened, out = open_bundle(bundle), out.absolute()
    check_beside(out, opened.path)
    held = SourceFrames.read(source, opened)
    with progress("trials") as bar:
        task = bar.add_task(opened.manifest.name, total=trials_needed(opened), note="")
        found = run(
            opened, held, frames=frames, seed=seed, threads=threads,
            note=lambda text: bar.update(task, advance=1, note=text),
        )  # fmt: skip
    report = _report(opened, found) | {"source": source.name, "frames": frames, "seed": seed}
    made = _write(opened, found, report, out)
    if json:
        print_json({"out": str(out), "identity": made.identity, **report})
        return
    rows = [
        (name, percent(error), percent(found.after.parts[name]))
        for name, error in sorted(found.before.parts.items())
    ]
    rows.append(("all", percent(found.before.all), percent(found.after.all)))
    print_table("error on fresh draws", ("labels, shift", "before", "after"), rows)
    changes = ", ".join(
        f"{name} {change['from']:g} -> {change['to']:g}"
        for name, change in report["changed"].items()
    )
    say(f"{out}: {changes or 'the bundle keeps its values'}")


def _report(bundle: Bundle, found: Tuned) -> dict[str, Any]:
    """For the manifest and JSON."""
    known = bundle.manifest.hyper_parameters
    changed: dict[str, dict[str, float]] = {
        name: {"from": known[name].default, "to": value}
        for name, value in found.choice.parameters.items()
    }
    if found.choice.adapt_when != bundle.manifest.adapt_when:
        changed["adapt_when"] = {
            "from": bundle.manifest.adapt_when,
            "to": found.choice.adapt_when,
        }
    return {
        "changed": changed,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "trials": found.trials,
    }


def _write(bundle: Bundle, found: Tuned, report: dict[str, Any], out: Path) -> Bundle:
    """A copy of the bundle with the choice in it."""
    from edgemem.bundle.copying import copy_files
    from edgemem.bundle.manifest_file import to_json
    from edgemem.bundle.opening import open_bundle
    from edgemem.bundle.sealed_document import MANIFEST
    from edgemem.files.atomic import explain_write_errors, new_folder

    manifest = bundle.manifest
    chosen = {
        name: replace(value, default=found.choice.parameters.get(name, value.default))
        for name, value in manifest.hyper_parameters.items()
    }
    manifest = replace(
        manifest,
        hyper_parameters=chosen,
        adapt_when=found.choice.adapt_when,
        exported_from=manifest.exported_from | {"tuned": report},
    )
    with explain_write_errors(out), new_folder(out) as draft:
        copy_files(bundle, draft, manifest.files)
        (draft / MANIFEST).write_bytes(to_json(manifest))
        open_bundle(draft)
    return open_bundle(out)
