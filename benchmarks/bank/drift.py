"""Fetching from a hierarchical bank beside a flat one while the topic drifts.

Both banks have the same leaves and the same numbers per context: one row on each level of a tree,
or one row as long as these together. Both run through the same code and may hold the same bytes:
the current context, or a cache. A random walk goes from leaf to leaf; what is timed is a switch:
from knowing the leaf to holding its block, check sums and the sum of the levels included. After
Pouransari et al., arXiv 2510.02375, Figure 5.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bank.fetch import make_bank
from benchmarks.bank.fetch_worker import figures, timed
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.bank.levels.byte_cache import ByteCache
from edgemem.bank.levels.level import Level
from edgemem.bank.levels.level_folder import open_levels
from edgemem.cli.show import print_table

LEVELS, ELEMENTS, CACHE_BYTES = 3, 28_672, 32 << 20
# Of the switches, how many go to a sibling, to a cousin, and to any leaf.
DRIFTS = {
    "uniform jumps": (0.0, 0.0, 1.0),
    "half local": (0.3, 0.2, 0.5),
    "mostly local": (0.6, 0.3, 0.1),
    "local drift": (0.9, 0.08, 0.02),
}
COLOURS = {"hierarchical": "#3a7ebf", "flat": "#d1495b"}


def walk(drift: tuple[float, float, float], branch: int, switches: int, seed: int) -> list[int]:
    """Leaves of a random walk; each differs from the one before it."""
    random = np.random.default_rng(seed)
    leaves = branch**LEVELS
    found = [int(random.integers(leaves))]
    while len(found) <= switches:
        family = (branch, branch * branch, leaves)[random.choice(3, p=drift)]
        leaf = found[-1] // family * family + int(random.integers(family))
        if leaf != found[-1]:
            found.append(leaf)
    return found


@dataclass
class Bank:
    """Level files, and what of them is in memory.

    cache_bytes: of rows; 0 for those of the current context alone. read: bytes read so far.
    """

    levels: list[Level]
    branch: int
    cache_bytes: int
    read: int = 0
    cache: ByteCache[Any] = field(init=False)
    current: list[tuple[int, Any]] = field(init=False)  # row and values by level
    sum: Any = field(init=False)

    def __post_init__(self) -> None:
        self.cache = ByteCache(self.cache_bytes)
        elements = self.levels[0].shape.elements
        self.current = [(-1, np.empty(elements, np.float32)) for _ in self.levels]
        self.sum = np.empty(elements, np.float32)

    def __call__(self, leaf: int) -> Any:
        """The block of a leaf."""
        depth = len(self.levels)
        path = [leaf // self.branch ** (depth - number) for number in range(1, depth + 1)]
        rows = [self._row(level, path) for level in range(depth)]
        if depth == 1:
            return rows[0]
        np.add(rows[0], rows[1], out=self.sum)
        for row in rows[2:]:
            np.add(self.sum, row, out=self.sum)
        return self.sum

    def _row(self, level: int, path: list[int]) -> Any:
        row, values = self.current[level]
        if row == path[level]:
            return values
        name = level, path[level]
        found = self.cache.get(name)
        if found is None:
            found = np.empty_like(values) if self.cache_bytes else values
            ahead = partial(self._will_need, level + 1, path)
            self.levels[level].read_stored(path[level], found, ahead)
            self.cache.put(name, found, found.nbytes)
            self.read += found.nbytes
        self.current[level] = path[level], found
        return found

    def _will_need(self, first: int, path: list[int]) -> None:
        for level in range(first, len(path)):
            known = self.current[level][0] == path[level] or (level, path[level]) in self.cache
            if not known:
                self.levels[level].will_need(path[level])

    def drop(self) -> None:
        """Drop the pages of the files from the page cache."""
        for level in self.levels:
            os.posix_fadvise(level._handle, 0, 0, os.POSIX_FADV_DONTNEED)


def banks(folders: dict[str, Path], branch: int) -> dict[str, Bank]:
    """Each bank with room for the current context alone, and with a cache."""
    found = {}
    for room, size in (("", 0), (", 32 MB cache", CACHE_BYTES)):
        for name, folder in folders.items():
            levels = open_levels(folder)
            found[name + room] = Bank(levels, branch, size)
    return found


def measured(
    folders: dict[str, Path], branch: int, leaves: list[int], cold: bool
) -> dict[str, dict[str, float]]:
    """Times and bytes of a switch by way; the ways take turns at every switch."""
    ways = banks(folders, branch)
    times: dict[str, list[float]] = {name: [] for name in ways}
    try:
        if not cold:
            for bank in ways.values():
                for leaf in leaves:
                    bank(leaf)
        for bank in ways.values():
            bank(leaves[0])
            bank.read = 0
        for leaf in leaves[1:]:
            for name, bank in ways.items():
                if cold:
                    bank.drop()
                times[name].append(timed(partial(bank, leaf)))
    finally:
        for bank in ways.values():
            for level in bank.levels:
                level.close()
    switches = len(leaves) - 1
    return {
        name: {**figures(times[name]), "kib": bank.read / switches / 1024}
        for name, bank in ways.items()
    }


def show(found: dict[str, dict[str, Any]], disk: dict[str, int]) -> None:
    """One table a drift."""
    columns = ("bank", "KiB read", "cold p50 µs", "p99", "warm p50 µs", "p99")
    for drift, states in found.items():
        far = ", ".join(f"{100 * share:.0f} %" for share in DRIFTS[drift])
        rows = []
        for name, cold in states["cold"].items():
            warm = states["warm"][name]
            values = (cold["kib"], cold["p50"], cold["p99"], warm["p50"], warm["p99"])
            rows.append((name, *(f"{value:.0f}" for value in values)))
        print_table(f"{drift} (sibling, cousin, any: {far}), one switch", columns, rows)
    rows = [(name, f"{size / 1e6:.0f}") for name, size in disk.items()]
    print_table("on disk", ("bank", "MB"), rows)


def draw(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Bytes and cold time of a switch by drift."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = {"KiB read for a switch": "kib", "median of a cold switch (µs)": "p50"}
    places = range(len(found))
    for axes, (label, what) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in next(iter(found.values()))["cold"]:
            values = [states["cold"][name][what] for states in found.values()]
            style = "--" if "cache" in name else "-"
            axes.plot(places, values, f"o{style}", color=COLOURS[name.split(",")[0]], label=name)
        axes.set_xticks(places, [drift.replace(" ", "\n") for drift in found])
        axes.set(ylabel=label, ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    figure.suptitle("Switching between contexts: levels that changed, or the whole block")
    figure.savefig(path, dpi=110)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; `--quick` only changes defaults."""
    parser = command_line(
        __doc__,
        "benchmarks.bank.drift --quick --json drift.json",
        quick="512 leaves instead of 4,096",
    )
    parser.add_argument("--switches", type=int, help="of each walk; default 1000, quick 200")
    parser.add_argument("--folder", type=Path, help="where to make the banks; default temporary")
    options = parser.parse_args(arguments)
    options.switches = options.switches or (200 if options.quick else 1000)
    return options


def main() -> None:
    """Make both banks, measure, print, save."""
    options = read_options()
    branch = 8 if options.quick else 16
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-", dir=options.folder) as text:
        folders = {name: Path(text) / name for name in COLOURS}
        needed = 4 * ELEMENTS * branch**LEVELS * (LEVELS + 1.2)
        if needed > shutil.disk_usage(text).free:
            raise SystemExit(f"{text}: needs {needed / 1e9:.1f} GB. Choose another --folder.")
        make_bank(folders["hierarchical"], branch, LEVELS, ELEMENTS, "hierarchical")
        make_bank(folders["flat"], branch**LEVELS, 1, LEVELS * ELEMENTS, "flat")
        disk = {
            name: sum(path.stat().st_size for path in folder.iterdir())
            for name, folder in folders.items()
        }
        for seed, (drift, shares) in enumerate(DRIFTS.items()):
            leaves = walk(shares, branch, options.switches, seed)
            found[drift] = {
                state: measured(folders, branch, leaves, state == "cold")
                for state in ("cold", "warm")
            }
    show(found, disk)
    about = setting(switches=options.switches, branch=branch, levels=LEVELS, elements=ELEMENTS)
    words = f"{branch**LEVELS:,} leaves, {options.switches} switches, "
    words += f"{4 * LEVELS * ELEMENTS // 1024} KiB a context, float32"
    print(setting_text(about, words))
    result = {"benchmark": "bank_drift", "setting": about, "drifts": DRIFTS}
    save_json(
        {**result, "found": found, "disk": disk}, options.out / "bank_drift.json", options.json
    )
    draw(options.out / "bank_drift.png", found)
    print(f"Picture: {options.out / 'bank_drift.png'}")


if __name__ == "__main__":
    main()
