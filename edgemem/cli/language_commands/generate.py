"""The command that runs a language model on a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemem.cli.arguments import Json, Threads
from edgemem.cli.output import complain, printing
from edgemem.cli.show import print_json
from edgemem.printable import printable


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(generate)


def generate(
    bundle: Annotated[Path, typer.Argument(help="Folder written by edgemem export-lm.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.")],
    max_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 128,
    temperature: Annotated[
        float, typer.Option(help="0 = always the likeliest token; more = more chance.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw among the fewest tokens with this probability together.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer; may be given again.")
    ] = None,
    block: Annotated[
        str,
        typer.Option(help="fetched by the prompt, generic, off, or a path of the bank: 3/51."),
    ] = "fetched",
    deny: Annotated[
        list[str] | None,
        typer.Option(help="Path of the bank that is never read; may be given again."),
    ] = None,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Continue a text with a language model, and what it fetches from its bank.

    The answer is printed as it comes. What was fetched is told on standard error.

    Example: edgemem generate smol.edgemem --prompt "The Warta flows into"
    """
    from edgemem.runtime.language.generation import Generation
    from edgemem.runtime.language.language_runtime import open_language

    how = Generation(max_tokens, temperature, top_p, seed, tuple(stop or ()))
    with open_language(bundle, threads=threads, deny=deny or ()) as runtime:
        answer = runtime.generate(prompt, how, block=block)
        memory = answer.memory
        for event in answer.events:
            complain(f"{event.kind}: {event.message}")
        if json:
            answer.all()
            assert answer.finish is not None
            print_json(
                {
                    "text": answer.text,
                    "tokens": answer.tokens,
                    "prompt_tokens": answer.prompt_tokens,
                    "finish": answer.finish.value,
                    "block": memory.kind,
                    "path": memory.path,
                    "denied": memory.denied,
                    "events": [f"{event.kind}: {event.message}" for event in answer.events],
                }
            )
            return
        complain(f"block: {memory.kind} {memory.path}".rstrip())
        for piece in answer:
            _show(piece)
        _show("\n")


def _show(piece: str) -> None:
    """A piece of an answer, whose lines end where they end; all else in it is harmless."""
    with printing():
        sys.stdout.write("\n".join(printable(line) for line in piece.split("\n")))
