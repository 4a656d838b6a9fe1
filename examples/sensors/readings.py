"""Accelerometer recordings as windows. Needs numpy only."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from motion import LENGTH, RATE
from numpy.typing import NDArray

from edgemem import InputError

COLUMNS = ("t", "x", "y", "z")
GAP = 0.2  # seconds without a sample after which a window does not go on
STANDARD_GRAVITY = 9.80665  # m/s² of 1 g


def csv_windows(
    path: Path, every: float, metres: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Activity ("" = unknown) and window [3, 128] in g, one every so many seconds.

    The file has the columns t (seconds), x, y, z, and may have `activity`; any rate, taken to 50 Hz
    by straight lines between samples. metres: accelerations are in m/s², not in g.

    Raises:
        InputError: no such file, another header, no numbers, time that stands still, or too short.
    """
    times, values, activities = _read(path)
    values = values / STANDARD_GRAVITY if metres else values
    span = (LENGTH - 1) / RATE
    starts = np.arange(times[0], times[-1] - span + 1e-9, max(every, 1 / RATE))
    if not len(starts):
        reason = f"holds {times[-1] - times[0]:.2f} seconds"
        raise InputError(str(path), reason, f"Record at least one window, {span:.2f} seconds")
    starts = starts[~_interrupted(times, starts, span)]
    if not len(starts):
        raise InputError(str(path), "has gaps in every window", f"Record at {RATE} Hz or so")
    return _windows(times, values, activities, starts)


def _windows(
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    activities: list[str],
    starts: NDArray[np.float64],
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for start in starts:
        grid = start + np.arange(LENGTH) / RATE
        axes = [np.interp(grid, times, values[:, axis]) for axis in range(3)]
        middle = int(np.searchsorted(times, grid[LENGTH // 2]))
        yield activities[middle], np.array(axes, np.float32)


def _interrupted(
    times: NDArray[np.float64], starts: NDArray[np.float64], span: float
) -> NDArray[np.bool_]:
    """Which windows have part of a gap within."""
    gap = np.diff(times) > GAP
    begun = np.searchsorted(times[:-1][gap], starts + span, "left")
    over = np.searchsorted(times[1:][gap], starts, "right")
    return begun > over


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Times [n], accelerations [n, 3] and activities [n] of a file."""
    rows, activities = [], []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                reason = f"has no column {', '.join(missing)}"
                raise InputError(str(path), reason, "Let the first line be t,x,y,z")
            for row in reader:
                rows.append([float(row[name]) for name in COLUMNS])
                activities.append(row.get("activity") or "")
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist", "Check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(str(path), f"cannot be read ({error})", "Pass a CSV file") from error
    except (ValueError, TypeError) as error:
        where = f"{path}, line {len(rows) + 2}"
        raise InputError(where, "is not four numbers", "Remove it, or write t,x,y,z") from error
    if not rows:
        raise InputError(str(path), "holds no sample", "Record some")
    table = np.array(rows)
    if not np.isfinite(table).all():
        raise InputError(str(path), "holds NaN or infinite values", "Remove those lines")
    if not (np.diff(table[:, 0]) > 0).all():
        line = int(np.argmin(np.diff(table[:, 0]) > 0)) + 3
        raise InputError(f"{path}, line {line}", "is not later than the line before", "Sort by t")
    return table[:, 0], table[:, 1:], activities
