"""Commands for language models that need torch and transformers: train-memories and export-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgemem.cli.arguments import Json
from edgemem.cli.commands.train import require_torch
from edgemem.cli.output import say
from edgemem.cli.show import print_json, progress
from edgemem.errors import InputError
from edgemem.printable import shown

Anchor = Annotated[
    Path, typer.Argument(help="Folder of Hugging Face: config, weights, tokenizer.json.")
]
Bank = Annotated[
    Path | None, typer.Option(help="Memories that were learnt for this model; default none.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(train_memories)
    app.command()(export_lm)


def train_memories(
    folder: Anchor,
    documents: Annotated[Path, typer.Option(help="A text, or a folder of .txt and .md.")],
    out: Annotated[Path, typer.Option(help="Bank to write, such as town.memories.")],
    ranks: Annotated[
        str, typer.Option(help="Columns of the blocks of each level, level 1 first.")
    ] = "4,4",
    branch: Annotated[int, typer.Option(help="Children of a node of the tree.")] = 8,
    layers: Annotated[int, typer.Option(help="Layers of the model that get memories.")] = 8,
    placement: Annotated[str, typer.Option(help="late: the last ones; or uniform.")] = "late",
    window: Annotated[int, typer.Option(help="Tokens that are trained on at once.")] = 256,
    key_length: Annotated[int, typer.Option(help="Numbers of the key of a text.")] = 1024,
    storage: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float16",
    epochs: Annotated[int, typer.Option(help="How often every text is seen.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Windows of a training step.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="At the beginning.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same bank.")] = 0,
    json: Json = False,
) -> None:
    """Train a bank of memories for a frozen language model on documents.

    Each text trains the blocks along its own path, and the generic block. The losses that are
    printed are those of the texts that were trained on: they show that it learnt, no more.

    Example: edgemem train-memories smollm2/ --documents town/ --out town.memories
    """
    require_torch("train")
    from edgemem.models.memory.memory_training import MemoryRecipe
    from edgemem.models.memory.train_memories import MemoryForm
    from edgemem.models.memory.train_memories import train_memories as train

    form = MemoryForm(
        ranks=_ranks(ranks),
        branch=branch,
        layers=layers,
        placement=placement,  # type: ignore[arg-type]
        window=window,
        key_length=key_length,
        storage=storage,
    )
    recipe = MemoryRecipe(epochs, batch_size, learning_rate, seed)
    with progress("steps") as bar:
        tasks: dict[str, Any] = {}

        def note(stage: str, done: int, steps: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, note="")
            bar.update(tasks[stage], completed=done, total=steps, note=f"loss {loss:.3f}")

        found = train(folder, documents, out, form, recipe, note)
    if json:
        print_json({"out": str(out), **vars(found)})
        return
    nodes = " and ".join(map(str, found.nodes))
    say(
        f"{out}: {found.windows} windows in {nodes} nodes; nats a token of the texts trained on: "
        f"anchor {found.anchor:.2f}, generic {found.generic:.2f}, fetched {found.fetched:.2f}",
        f"Next: edgemem export-lm {folder} --memories {out} --out NAME.edgemem",
    )


def _ranks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(rank) for rank in text.split(","))
    except ValueError:
        raise InputError(f"ranks {shown(text)}", "are no numbers", "Use such as 4,4") from None


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
