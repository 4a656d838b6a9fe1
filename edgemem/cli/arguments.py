"""Options and arguments that commands on a device share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(help="Folder written by edgemem export.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine; 0 = all cores.")]
UsedProvider = Annotated[
    str, typer.Option(help="auto, cpu, xnnpack, cuda, coreml, nnapi, qnn or litert.")
]
