"""What came of many faults of one kind."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

ENDINGS = ("", "-wal", "-journal")
EVIDENCE = Path("results", "torture")  # files that were judged wrong, as the fault left them


def files_of(path):
    """The content of a state file and what belongs to it, by name."""
    files = [Path(f"{path}{ending}") for ending in ENDINGS]
    return {file.name: file.read_bytes() for file in files if file.exists()}


@dataclass
class Row:
    """One line of the table.

    fault: its kind. cases: how many there were. old, new: after how many of them the file held what
    had been acknowledged last, or what was on the way. losses: of steps, one a case. skipped: why
    there were none. failures: what was wrong, with what makes it again.
    """

    fault: str
    cases: int = 0
    old: int | None = 0
    new: int | None = 0
    losses: list[int] | None = field(default_factory=list)
    skipped: str = ""
    failures: list[str] = field(default_factory=list)

    def add(self, verdict, case, files=None):
        """Count one case; case: what makes it again. files: kept, if it is a failure."""
        self.cases += 1
        if self.losses is not None:
            self.losses.append(verdict.lost)
        if verdict.wrong:
            self.failures.append(f"{case}: {'; '.join(verdict.wrong)}")
            folder = EVIDENCE / f"{self.fault}, {case}".replace(":", "").replace(" ", "-")
            for name, content in (files or {}).items():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        elif verdict.content == "old":
            self.old += 1
        else:
            self.new += 1

    def cells(self):
        """Text of the columns of the table."""
        if self.skipped:
            return [self.fault, "skipped", "–", "–", "–", "–"]
        counts = ["–" if n is None else f"{n:,}" for n in (self.cases, self.old, self.new)]
        lost = f"{median(self.losses):.0f} / {max(self.losses)}" if self.losses else "–"
        return [self.fault, *counts, lost, f"{len(self.failures):,}"]

    def as_dict(self):
        """For JSON."""
        return asdict(self)


# Steps lost: median and most.
COLUMNS = ("fault", "cases", "old", "new", "steps lost", "failures")
