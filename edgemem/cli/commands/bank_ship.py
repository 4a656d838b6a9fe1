"""Commands between a bundle and its bank: keys, ship."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemem.cli.output import say
from edgemem.cli.show import Stages, print_json, progress
from edgemem.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgemem.bundle.opening import Bundle
    from edgemem.runtime.tools.stream import Stream

BundlePath = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder written by edgemem export.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def add_to(bank_app: typer.Typer) -> None:
    """Register the commands."""
    for command in (keys, ship):
        bank_app.command()(command)


def keys(
    bundle: BundlePath,
    input: Annotated[Path, typer.Option(help="Stream: .npz with x.")],
    out: Annotated[Path, typer.Option(help="File to write, such as keys.npz.")],
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 = all cores.")] = 0,
    json: Json = False,
) -> None:
    """Write the context key of every full batch of a recorded stream, for edgemem bank build.

    Keys are as the device compares them. Batches whose key is not finite are left out, as there.

    Example: edgemem bank keys camera.edgemem --input stream.npz --out keys.npz
    """
    import numpy as np

    from edgemem.bundle.opening import open_bundle
    from edgemem.files.atomic import write_file
    from edgemem.runtime.tools.stream import Stream

    if out.suffix != ".npz":
        raise InputError(str(out), "is no .npz", "Name the file keys.npz")
    opened, stream = open_bundle(bundle), Stream(input)
    found = _stream_keys(opened, stream, threads)
    file = io.BytesIO()
    np.savez(file, keys=found)
    write_file(out, file.getvalue(), private=True)  # they tell where the device has been
    batches = stream.frames // opened.manifest.frames.batch
    if json:
        print_json({"out": str(out), "keys": len(found), "left_out": batches - len(found)})
    else:
        say(
            f"{out}: {len(found):,} keys of {found.shape[1]} numbers, {batches - len(found)} left "
            f"out. Next: edgemem bank build {out} --bundle {bundle} --out bank"
        )


def ship(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="Folder, or bundle with levels.")],
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(help="Bundle to write; the old one stays as it is.")],
    json: Json = False,
) -> None:
    """Copy a bundle, with the levels of a bank in it, after checking both.

    The new bundle has an identity of its own: devices start new state files with it, those of the
    old bundle do not go on.

    Example: edgemem bank ship bank camera.edgemem --out camera-2.edgemem
    """
    from edgemem.bank.building.ship import ship as make
    from edgemem.bank.levels.level_folder import level_folder

    with progress("") as bar:
        made = make(level_folder(bank), bundle, out, Stages(bar))
    if json:
        levels = made.manifest.levels
        print_json({"out": str(out), "identity": made.identity, "levels": levels})
    else:
        say(
            f"{out}: {len(made.manifest.levels)} levels, identity {made.identity[:12]}. "
            "State files of the old bundle do not go on with it."
        )


def _stream_keys(bundle: Bundle, stream: Stream, threads: int) -> NDArray[np.float32]:
    """Keys [n, key] of the full batches of a stream, as the device compares them."""
    import numpy as np

    from edgemem.runtime.contexts.source_in_bundle import source_keys
    from edgemem.runtime.engines.choice import EngineSettings, choose
    from edgemem.runtime.frames import checked
    from edgemem.runtime.step.graphs import Graphs

    manifest = bundle.manifest
    batch = manifest.frames.batch
    if manifest.source is None:
        reason = "has no source keys, so contexts are not told apart"
        raise InputError(bundle.path.name, reason, "Warm the model up and export it again")
    stream.require_shape(manifest.frames)
    if stream.frames < batch:
        raise InputError(
            str(stream.path), f"holds {stream.frames} frames, no full batch", f"Record {batch}"
        )
    graphs = Graphs(bundle, choose(bundle, settings=EngineSettings(threads), step="").backend)
    source = source_keys(bundle)
    found: list[NDArray[np.float32]] = []
    with progress("frames") as bar:
        task = bar.add_task(stream.path.name, total=stream.frames, note="")
        for start, frames in stream.chunks(batch):
            if len(frames) == batch:
                key = graphs.key(checked(frames, manifest.frames))
                with np.errstate(over="ignore", invalid="ignore"):
                    found.append(source.normal(key))
            bar.update(task, completed=start + len(frames))
    every = np.array(found, np.float32)
    finite: NDArray[np.float32] = every[np.isfinite(every).all(axis=1)]
    if not len(finite):
        raise InputError(str(stream.path), "gives no finite key", "Check the frames")
    return finite
