"""Commands for language models that need torch and transformers: export-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemem.cli.arguments import Json
from edgemem.cli.commands.train import require_torch
from edgemem.cli.output import say
from edgemem.cli.show import print_json, progress

Anchor = Annotated[
    Path, typer.Argument(help="Folder of Hugging Face: config, weights, tokenizer.json.")
]
Bank = Annotated[
    Path | None, typer.Option(help="Memories that were learnt for this model; default none.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(export_lm)


def export_lm(
    folder: Anchor,
    out: Annotated[Path, typer.Option(help="Bundle to write, such as name.edgemem.")],
    memories: Bank = None,
    json: Json = False,
) -> None:
    """Turn a language model and its memories into a bundle that runs without torch.

    The graph is compared with transformers before the bundle is put in place: all logits of a text
    within 1e-4 of the largest, with the zero block and with a random one.

    Example: edgemem export-lm smollm2/ --memories town.memories --out smol.edgemem
    """
    require_torch("export")
    from edgemem.export.language_models.text_bundle_writer import export_language

    with progress("stages") as bar:
        work = bar.add_task("export", total=None, note="")
        parity = export_language(
            folder, out, memories, lambda stage: bar.update(work, advance=1, note=stage)
        )
        bar.update(work, total=bar.tasks[0].completed)
    if json:
        print_json({"out": str(out), "parity": parity.as_dict()})
        return
    figures = f"anchor {parity.anchor:.1e}"
    if memories is not None:
        figures += f", with a random block {parity.block:.1e}"
    say(
        f"{out}: within 1e-04 of transformers ({figures})",
        f"Next: edgemem generate {out} --prompt TEXT",
    )
