"""A picture of the tree of contexts. Needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.files.atomic import explain_write_errors
from edgemem.plot import drawn, new_figure

Counts = NDArray[np.int64]
MOST_NODES = 300
LARGEST_AREA = 2400.0
COLOURS = 20


def plot_tree(path: Path, counts: list[Counts], branch: int, *, title: str) -> int:
    """Draw the tree, root on top, the area of a node by its count; how many levels are drawn.

    Levels with more than 300 nodes are left out, since nobody could read them.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    shown = [counts[0]]
    for count in counts[1:]:
        if np.count_nonzero(count) > MOST_NODES:
            break
        shown.append(count)
    places = _places(shown, branch)
    figure = new_figure((11, 1.6 + 1.5 * len(shown)))
    axes = figure.subplots()
    _draw(axes, shown, places, branch)
    left_out = len(counts) - len(shown)
    note = f", {left_out} deeper not shown" if left_out else ""
    axes.set_title(f"{drawn(title)}: {int(counts[0].sum()):,} keys, {len(shown)} levels{note}")
    axes.set_yticks(
        [-depth for depth in range(len(shown) + 1)],
        ["root", *(f"level {d + 1}\n{np.count_nonzero(c):,} nodes" for d, c in enumerate(shown))],
    )
    axes.set_xticks([])
    axes.set_ylim(-len(shown) - 0.5, 0.4)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    with explain_write_errors(path):
        figure.savefig(path, dpi=110)
    return len(shown)


def _places(counts: list[Counts], branch: int) -> list[dict[int, float]]:
    """Horizontal place of every node: leaves side by side, others above their children."""
    leaves = 0
    places: list[dict[int, float]] = [{} for _ in counts]

    def place(depth: int, row: int) -> float:
        nonlocal leaves
        children: list[float] = []
        if depth + 1 < len(counts):
            first = row * branch
            present = np.flatnonzero(counts[depth + 1][first : first + branch])
            children = [place(depth + 1, first + int(child)) for child in present]
        if not children:
            leaves += 1
        found = sum(children) / len(children) if children else float(leaves)
        places[depth][row] = found
        return found

    for row in np.flatnonzero(counts[0]):
        place(0, int(row))
        leaves += 1 if len(counts) > 1 else 0  # a gap between subtrees
    return places


def _draw(axes: Any, counts: list[Counts], places: list[dict[int, float]], branch: int) -> None:
    from matplotlib import colormaps

    total, colours = counts[0].sum(), colormaps["tab20"]
    middle = float(np.mean(list(places[0].values())))
    axes.scatter([middle], [0], s=LARGEST_AREA / 6, color="#444444", zorder=3)
    for depth, nodes in enumerate(places):
        tops = [colours(row // branch**depth % COLOURS) for row in nodes]
        for (row, x), colour in zip(nodes.items(), tops, strict=True):
            above = places[depth - 1][row // branch] if depth else middle
            axes.plot([above, x], [-depth, -depth - 1], color=colour, linewidth=0.7, zorder=1)
        areas = [8 + LARGEST_AREA * counts[depth][row] / total for row in nodes]
        xs, ys = list(nodes.values()), [-depth - 1] * len(nodes)
        axes.scatter(xs, ys, s=areas, color=tops, edgecolor="white", linewidth=0.5, zorder=2)
    for row, x in places[0].items():
        share = f"{100 * counts[0][row] / total:.0f} %"
        axes.annotate(share, (x, -1), (0, 16), textcoords="offset points", ha="center", fontsize=7)
