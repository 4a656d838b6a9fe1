"""Commands on the levels of a bank: build, ls, show, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemem.cli.show import percent, print_json, print_table, progress
from edgemem.errors import BankError

if TYPE_CHECKING:
    from rich.progress import Progress

Folder = Annotated[Path, typer.Argument(help="Folder with level-1.safetensors …, or a bundle.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
SHOWN_FAULTS = 20

bank_app = typer.Typer(
    name="bank",
    help="The bank: a tree of contexts, each with its block.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (build, ls, show, verify):
        bank_app.command()(command)
    app.add_typer(bank_app)


def build(
    keys: Annotated[Path, typer.Argument(help=".npz with keys, or .npy: [N, d] floats.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    levels: Annotated[int, typer.Option(help="Depth of the tree.")] = 3,
    branch: Annotated[int, typer.Option(help="Children of a node.")] = 16,
    elements: Annotated[int, typer.Option(help="Numbers of a block; all are 0 at first.")] = 0,
    storage: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same tree.")] = 0,
    json: Json = False,
) -> None:
    """Build the tree of contexts from source keys, by hierarchical k-means.

    Keys stay on disk; a temporary folder beside --out takes about 20 bytes a key, and a copy of
    the keys if they are an .npz.

    Example: edgemem bank build keys.npz --levels 3 --branch 16 --out bank
    """
    from edgemem.bank.build import build_bank

    with progress("") as bar:
        build_bank(
            keys,
            out,
            levels=levels,
            branch=branch,
            elements=elements,
            storage=storage,
            seed=seed,
            progress=_Stages(bar),
        )
    ls(out, json)


def ls(folder: Folder, json: Json = False) -> None:
    """List the levels of a bank.

    Example: edgemem bank ls bank
    """
    levels = _opened(folder)
    found = [
        {
            "file": level.path.name,
            "nodes": int((level.column("count") > 0).sum()),
            "rows": level.shape.rows,
            "key_length": level.shape.key_length,
            "elements": level.shape.elements,
            "storage": level.shape.storage,
            "bytes": level.path.stat().st_size,
        }
        for level in levels
    ]
    if json:
        print_json({"branch": levels[0].shape.branch, "levels": found})
        return
    first = found[0]
    print_table(
        f"{folder}: branch {levels[0].shape.branch}, keys of {first['key_length']} numbers, "
        f"blocks of {first['elements']:,}",
        ("file", "nodes", "rows", "storage", "bytes"),
        [
            (f["file"], f"{f['nodes']:,}", f"{f['rows']:,}", f["storage"], f"{f['bytes']:,}")
            for f in found
        ],
    )


def show(
    folder: Folder,
    plot: Annotated[Path | None, typer.Option(help="Save a picture of the tree.")] = None,
    json: Json = False,
) -> None:
    """Show how source keys are spread over the tree.

    Example: edgemem bank show bank --plot tree.png
    """
    import numpy as np

    from edgemem.bank.picture import plot_tree

    if plot is not None:
        from edgemem.plot import check_picture

        check_picture(plot)
    levels = _opened(folder)
    branch, counts = levels[0].shape.branch, [level.column("count") for level in levels]
    if plot is not None:
        plot_tree(plot, counts, branch, title=folder.name)
    rows = []
    for number, count in enumerate(counts, start=1):
        present = count[count > 0]
        figures = np.quantile(present, (0, 0.5, 1)) if len(present) else np.zeros(3)
        smallest, median, largest = figures.tolist()
        rows.append((number, len(present), int(smallest), median, int(largest)))
    if json:
        names = ("level", "nodes", "smallest", "median", "largest")
        print_json({"levels": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    print_table(
        f"{folder}: source keys of a node",
        ("level", "nodes", "smallest", "median", "largest"),
        [tuple(f"{value:,.0f}" for value in row) for row in rows],
    )
    total = max(int(counts[0].sum()), 1)
    print_table(
        "level 1",
        ("node", "source keys", "share", *(["children"] if len(counts) > 1 else [])),
        [
            (str(row), f"{count:,}", percent(count / total), *_children(counts, row, branch))
            for row, count in enumerate(counts[0].tolist())
            if count
        ],
    )
    if plot is not None:
        print(f"Picture: {plot}")


def verify(folder: Folder, json: Json = False) -> None:
    """Check every check sum, parent and count; exit code 2 if anything is wrong.

    Example: edgemem bank verify bank
    """
    from edgemem.bank.verify import verify_bank

    place = _bank_folder(folder)
    with progress("rows") as bar:
        faults = list(verify_bank(place, _Stages(bar)))
    if json:
        print_json({"whole": not faults, "faults": faults})
    else:
        for fault in faults[:SHOWN_FAULTS]:
            print(fault)
    if faults:
        reason = f"has {len(faults)} faults" if len(faults) > 1 else "has a fault"
        raise BankError(
            str(folder), f"{reason}, {faults[0]}", "Build the bank again or get a fresh copy"
        )
    if not json:
        print(f"{folder}: everything is as it was written.")


class _Stages:
    """Shows stages on a bar, each on a line of its own."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, note="")
        self._bar.update(self._tasks[stage], completed=done)


def _children(counts: list[Any], row: int, branch: int) -> list[str]:
    if len(counts) == 1:
        return []
    return [str(int((counts[1][row * branch : (row + 1) * branch] > 0).sum()))]


def _bank_folder(folder: Path) -> Path:
    return folder / "bank" if (folder / "manifest.json").is_file() else folder


def _opened(folder: Path) -> list[Any]:
    from edgemem.bank.folder import open_levels

    return open_levels(_bank_folder(folder))
