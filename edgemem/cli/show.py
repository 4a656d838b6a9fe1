"""What commands print: tables, progress, JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from edgemem.cli.output import printing
from edgemem.printable import printable

if TYPE_CHECKING:
    from edgemem.bundle.manifest import FileRecord


def console() -> Console:
    """Standard output; 80 columns when it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 80, soft_wrap=False, highlight=False)


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers that are not finite are null."""
    text = json.dumps(_finite(values), indent=1, allow_nan=False)
    with printing():
        print(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the first column is text, the others are figures."""
    title = printable(title)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.min_width = min(len(title), 80)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # [extra] is text, not a style
    with printing():
        console().print(table)


def print_files(files: Mapping[str, FileRecord]) -> None:
    """The files of a bundle."""
    rows = [(name, f"{record.size:,}", record.sha256[:12]) for name, record in files.items()]
    print_table("files", ("name", "bytes", "sha256"), rows)


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"


@contextmanager
def progress(unit: str) -> Iterator[Progress]:
    """A progress bar on standard error, so that standard output stays clean."""
    columns = (
        _PlainColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        _PlainColumn("{task.fields[note]}"),
    )
    unheard: Any = _Unheard(sys.stderr)
    with Progress(*columns, console=Console(file=unheard)) as bar:
        yield bar


def line_of(bar: Progress, text: str) -> None:
    """A line above the bar."""
    bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


class _PlainColumn(TextColumn):
    """Text that is neither styled nor acted on, whatever is in it."""

    def render(self, task: Task) -> Text:
        return Text(printable(self.text_format.format(task=task)))


class _Unheard:
    """A stream whose failures end nothing: nobody may be looking at the progress of the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _finite(value: Any) -> Any:
    """A value for JSON, which knows neither NaN nor infinities."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Stages:
    """Shows stages on a bar, each on a line of its own."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, note="")
        self._bar.update(self._tasks[stage], completed=done)
