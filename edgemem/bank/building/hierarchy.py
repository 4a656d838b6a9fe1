"""Builds the levels of a bank from keys and blocks: hierarchical k-means, streamed from disk.

In memory are one step's samples, a few blocks and the counts of the tree; the order of the keys and
the centroids are mapped from temporary files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem.bank.building.keys import MOST_BYTES, Keys, Source, new_array, open_blocks, open_keys
from edgemem.bank.building.kmeans import KMeansSettings, cluster, nearest
from edgemem.bank.building.means import mean_rows
from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_folder import level_numbers, level_path
from edgemem.bank.levels.level_header import STORAGES, LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.errors import InputError
from edgemem.files.atomic import explain_write_errors, new_folder
from edgemem.printable import shown

MOST_NODES = 1 << 24
MOST_ELEMENTS = MOST_BYTES // 4
CHUNK_BYTES = 8 << 20
# Stage, done, total.
Progress = Callable[[str, int, int], None]
# Opens keys and blocks; what it has to write goes to the temporary folder that it is given.
Opener = Callable[[Path, Progress], Source]
Order = NDArray[np.int64]
Counts = NDArray[np.int64]


def build_bank(
    source: Path | str | Opener,
    out: Path | str,
    *,
    levels: int = 3,
    branch: int = 16,
    elements: int | None = None,
    storage: str = "float32",
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> list[Counts]:
    """Build levels from keys and, if there are any, a block for each; the counts of each level.

    The sum of the rows along the path to a node is the mean of the blocks of the keys below it,
    up to the rounding of its own row. Without blocks, all rows are zero. The same source, options
    and seed give the same files. An existing folder at `out` is replaced when all is done.

    Args:
        source: .npy with keys [N, d], .npz with `keys` and perhaps `blocks` [N, elements], floats;
            or what opens another source.
        out: the folder to write.
        levels: how many; their rows are branch, branch^2, …
        branch: children of every node.
        elements: numbers of a block; by default as many as the blocks have, or none.
        storage: of blocks: "float32", "float16" or "int8".
        seed: of the samples that k-means draws.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        InputError: keys, blocks or options that do not fit, or a folder that cannot be written.
    """
    out = Path(out)
    opener = partial(_open_file, Path(source)) if isinstance(source, str | Path) else source
    _check_options(levels, branch, elements or 0, storage, out)
    if seed < 0:
        raise InputError(f"seed {shown(seed)}", "is negative", "Use 0 or more")
    with (
        explain_write_errors(out),
        tempfile.TemporaryDirectory(
            dir=out.absolute().parent, prefix=f".{out.name}.keys."
        ) as temporary,
        new_folder(out) as draft,
        ExitStack() as files,
    ):
        folder, written, counts = Path(temporary), list[Level](), list[Counts]()
        found = opener(folder, progress)
        size = _elements(found, elements)
        key_length = int(found.keys.shape[1])
        shapes = [LevelShape(n, branch, key_length, size, storage) for n in range(1, levels + 1)]
        _require_space(draft, shapes)
        grouping = Grouping(found.keys, folder)
        above = np.array([len(found.keys)])
        for shape in shapes:
            number = shape.number
            centroids = _temporary(folder, f"level-{number}", np.float32, _keys_shape(shape))
            name = f"level {number} of {levels}"
            above = _cluster_level(grouping, shape, above, centroids, seed, partial(progress, name))
            stage = partial(progress, f"blocks of {name}")
            rows = mean_rows(shape, above, grouping.order, found.blocks, written, stage)
            write_level(level_path(draft, number), shape, centroids, above, rows)
            written.append(files.enter_context(Level(level_path(draft, number))))
            counts.append(above)
    return counts


def _open_file(path: Path, folder: Path, progress: Progress) -> Source:
    keys = open_keys(path, folder, partial(progress, "check keys"))
    blocks = open_blocks(path, folder, partial(progress, "check blocks"))
    return Source(keys, blocks)


def _elements(source: Source, expected: int | None) -> int:
    """Numbers of a block."""
    if source.blocks is None:
        return expected or 0
    rows, found = len(source.blocks), int(source.blocks.shape[1])
    if rows != len(source.keys):
        raise InputError(
            f"{rows} blocks", f"are not one for each of {len(source.keys)} keys", "Save as many"
        )
    if expected not in (None, found):
        raise InputError(
            f"blocks of {found} numbers",
            f"are not of {expected}, as the bundle or --elements says",
            "Save blocks of that length, or leave --elements out",
        )
    return found


def _keys_shape(shape: LevelShape) -> tuple[int, int]:
    return shape.rows, shape.key_length


def _cluster_level(
    grouping: Grouping,
    shape: LevelShape,
    above: Counts,
    centroids: Keys,
    seed: int,
    progress: Callable[[int, int], None],
) -> Counts:
    """Fill the centroids of a level from the counts of the level above; its counts."""
    recipe, count = KMeansSettings(), np.zeros(shape.rows, np.int64)
    start = 0
    for parent, members in enumerate(above.tolist()):
        first = parent * shape.branch
        centroids[first : first + shape.branch] = np.inf
        if members:
            # The generator of a node depends on nothing but its place.
            random = np.random.default_rng([seed, shape.number, parent])
            samples = _samples(grouping, start, start + members, recipe, random)
            found = cluster(samples, shape.branch, recipe, random)
            counted = grouping.split(start, start + members, found)
            present = np.flatnonzero(counted)
            count[first : first + len(found)] = counted
            centroids[first + present] = found[present]
            start += members
        progress(parent + 1, len(above))
    grouping.next_level()
    return count


class Grouping:
    """The keys in an order in which those of one node stand together; kept on disk."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self._keys = keys
        n = len(keys)
        self._order: Order = _temporary(folder, "order", np.int64, (n,))
        self._next: Order = _temporary(folder, "next", np.int64, (n,))
        self._labels = _temporary(folder, "labels", np.int32, (n,))
        self._step = max(1, CHUNK_BYTES // (keys.shape[1] * 8))
        for first in range(0, n, self._step):
            stop = min(first + self._step, n)
            self._order[first:stop] = np.arange(first, stop)

    @property
    def order(self) -> Order:
        """Numbers of the keys: those of one node side by side, nodes in the order of their rows."""
        return self._order

    def take(self, places: NDArray[np.int64]) -> Keys:
        """Keys at places of the order."""
        return np.asarray(self._keys[np.sort(self._order[places])])

    def split(self, start: int, stop: int, centroids: Keys) -> NDArray[np.int64]:
        """Group the keys of a node by nearest centroid; how many each centroid got."""
        counts = np.zeros(len(centroids), np.int64)
        for first, last in self._chunks(start, stop):
            labels = nearest(self._keys[self._order[first:last]], centroids)
            self._labels[first:last] = labels
            counts += np.bincount(labels, minlength=len(centroids))
        place = start + np.cumsum(counts) - counts
        for first, last in self._chunks(start, stop):
            labels = np.asarray(self._labels[first:last])
            # Stable, so that keys of a node stay in the order of the file: reads go forward.
            sorted_ = np.argsort(labels, kind="stable")
            part = self._order[first:last][sorted_]
            here = np.bincount(labels, minlength=len(centroids))
            ends = np.cumsum(here)
            for label in np.flatnonzero(here):
                members = part[ends[label] - here[label] : ends[label]]
                self._next[place[label] : place[label] + len(members)] = members
                place[label] += len(members)
        return counts

    def next_level(self) -> None:
        """Take the order that the splits made."""
        self._order, self._next = self._next, self._order

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for first in range(start, stop, self._step):
            yield first, min(first + self._step, stop)


def _samples(
    grouping: Grouping, start: int, stop: int, recipe: KMeansSettings, random: np.random.Generator
) -> Iterator[Keys]:
    """Fresh keys of a node; when all were used, they are drawn in a new order."""
    size = min(stop - start, recipe.step_keys)
    drawn = min(stop - start, size * (recipe.steps + 1))
    while True:
        places = start + random.choice(stop - start, drawn, replace=False)
        for first in range(0, drawn - size + 1, size):
            yield grouping.take(places[first : first + size])


def _require_space(folder: Path, shapes: list[LevelShape]) -> None:
    """Refuse what the disk has no space for, before hours of work."""
    needed = sum(shape.index_bytes + shape.rows * shape.row_bytes for shape in shapes)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(
            f"{len(shapes)} levels of branch {shapes[0].branch}",
            f"take {needed:,} bytes, and {free:,} are free",
            "Use fewer levels, a smaller branch or storage int8, or another disk",
        )


def _temporary(folder: Path, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    return new_array(folder / f"{name}.npy", dtype, shape)


def _check_options(levels: int, branch: int, elements: int, storage: str, out: Path) -> None:
    if out.is_dir() and len(level_numbers(out)) != len(list(out.iterdir())):
        raise InputError(
            str(out), "holds other files than levels", "Choose a new folder, or empty this one"
        )
    # With more levels than this even the smallest branch gives too many leaves.
    if levels < 1 or branch < 2 or branch > MOST_NODES or branch ** min(levels, 64) > MOST_NODES:
        raise InputError(
            f"{shown(levels)} levels of branch {shown(branch)}",
            "make no tree that can be built",
            f"Use at least 1 level, branch 2 or more, and at most {MOST_NODES:,} leaves",
        )
    if not 0 <= elements <= MOST_ELEMENTS:
        thing = f"{shown(elements)} elements"
        raise InputError(thing, "make no block", f"Use 0 to {MOST_ELEMENTS:,}")
    if storage not in STORAGES:
        raise InputError(f"storage {shown(storage)}", "is unknown", f"Use {', '.join(STORAGES)}")
