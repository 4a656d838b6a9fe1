"""Commands on the levels of a bank: build, ls, show, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgemem.cli.output import say
from edgemem.cli.show import Stages, percent, print_json, print_table, progress
from edgemem.errors import BankError, InputError

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
    source: Annotated[
        list[Path],
        typer.Argument(
            help=".npz with keys [N, d] and perhaps blocks [N, elements]; .npy with keys; or, "
            "with --bundle, files of edgemem bank export."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle that the bank is for; gives --elements.")
    ] = None,
    levels: Annotated[int, typer.Option(help="Depth of the tree.")] = 3,
    branch: Annotated[int, typer.Option(help="Children of a node.")] = 16,
    elements: Annotated[
        int | None, typer.Option(help="Numbers of a block; without blocks, all are 0.")
    ] = None,
    storage: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same tree.")] = 0,
    json: Json = False,
) -> None:
    """Build the tree of contexts from keys, by hierarchical k-means.

    With blocks, one a key, the rows along the path to a node add up to the mean of the blocks
    below it; a block is what is added to the bundle's generic one. Files of edgemem bank export
    give both: the contexts that devices running --bundle learnt.

    Keys and blocks stay on disk; a temporary folder beside --out takes about 20 bytes a key, and a
    copy of them unless they are a .npy.

    Example: edgemem bank build keys.npz --levels 3 --branch 16 --out bank

    Example: edgemem bank build a.safetensors b.safetensors --bundle camera.edgemem --out bank
    """
    from edgemem.bank.building.hierarchy import build_bank

    opener, expected = _source(source, bundle, elements)
    with progress("") as bar:
        counts = build_bank(
            opener,
            out,
            levels=levels,
            branch=branch,
            elements=expected,
            storage=storage,
            seed=seed,
            progress=Stages(bar),
        )
    ls(out, json)
    rows, empty = (sum(map(len, counts)), sum(int((count == 0).sum()) for count in counts))
    if not json and 2 * empty > rows:
        say(
            f"{empty:,} of {rows:,} rows are empty: fewer --levels or a smaller --branch make "
            "smaller files."
        )


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

    from edgemem.bank.building.picture import plot_tree

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
        say(f"Picture: {plot}")


def verify(folder: Folder, json: Json = False) -> None:
    """Check every check sum, parent and count; exit code 2 if anything is wrong.

    Example: edgemem bank verify bank
    """
    from edgemem.bank.levels.level_checks import verify_bank
    from edgemem.bank.levels.level_folder import level_folder

    place = level_folder(folder)
    with progress("rows") as bar:
        faults = list(verify_bank(place, Stages(bar)))
    if json:
        print_json({"whole": not faults, "faults": faults})
    else:
        for fault in faults[:SHOWN_FAULTS]:
            say(fault)
    if faults:
        reason = f"has {len(faults)} faults" if len(faults) > 1 else "has a fault"
        raise BankError(
            str(folder), f"{reason}, {faults[0]}", "Build the bank again or get a fresh copy"
        )
    if not json:
        say(f"{folder}: everything is as it was written.")


def _source(files: list[Path], bundle: Path | None, elements: int | None) -> tuple[Any, int | None]:
    """What to build from, and how many numbers a block should have."""
    from edgemem.bank.building.collected import learnt_opener
    from edgemem.bundle.opening import open_bundle

    exported = [path for path in files if path.suffix == ".safetensors"]
    if exported and bundle is None:
        remedy = "Pass it with --bundle"
        raise InputError(str(exported[0]), "needs the bundle that its device runs", remedy)
    if len(files) > 1 and len(exported) != len(files):
        raise InputError(
            f"{len(files)} files",
            "are not all of edgemem bank export",
            "Pass one file of keys, or only such files",
        )
    if bundle is None:
        return files[0], elements
    opened = open_bundle(bundle)
    expected = opened.manifest.block.elements
    if elements not in (None, expected):
        raise InputError(
            f"--elements {elements}", f"is not the bundle's {expected}", "Leave it out"
        )
    return (learnt_opener(opened, files) if exported else files[0]), expected


def _children(counts: list[Any], row: int, branch: int) -> list[str]:
    if len(counts) == 1:
        return []
    return [str(int((counts[1][row * branch : (row + 1) * branch] > 0).sum()))]


def _opened(folder: Path) -> list[Any]:
    from edgemem.bank.levels.level_folder import level_folder, open_levels

    return open_levels(level_folder(folder))
